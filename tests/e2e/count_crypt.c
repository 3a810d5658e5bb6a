/* For test_hash_count.py, put before libcrypt by LD_PRELOAD: each password hash that a program computes makes
   the file $COUNT_CRYPT one byte longer. */
#include <crypt.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef char *crypt_function(const char *phrase, const char *setting, struct crypt_data *data);

/* The name that the program calls is given to it here. */
char *crypt_r(const char *phrase, const char *setting, struct crypt_data *data);

char *crypt_r(const char *phrase, const char *setting, struct crypt_data *data)
{
    void *found = dlsym(RTLD_NEXT, "crypt_r");
    const char *path = getenv("COUNT_CRYPT");
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    crypt_function *real;
    char *result;
    if (!found || fd < 0)
        abort();
    memcpy(&real, &found, sizeof real);
    result = real(phrase, setting, data);
    /* What failed at once ("*0") computed nothing. */
    if (write(fd, result && result[0] != '*' ? "1" : "0", 1) != 1)
        abort();
    close(fd);
    return result;
}
