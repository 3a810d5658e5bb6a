/* For parts/cgi.py: the least a CGI program can do. Linked statically. */
#include <unistd.h>

int main(void)
{
    static const char answer[] = "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    return write(STDOUT_FILENO, answer, sizeof answer - 1) != (ssize_t)(sizeof answer - 1);
}
