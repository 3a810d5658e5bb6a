/* A main() without a fuzzer: runs a target over the files it is given, for a compiler that has no libFuzzer,
 * for coverage and for valgrind. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "fuzz.h"

#define INPUT_BYTES_MAX (1024 * 1024)

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        struct buf input = BUF_INIT;
        int fd = open(argv[i], O_RDONLY | O_CLOEXEC);
        if (fd < 0 || !buf_read(&input, fd, INPUT_BYTES_MAX)) {
            perror(argv[i]);
            return 1;
        }
        close(fd);
        LLVMFuzzerTestOneInput((const uint8_t *)buf_str(&input), input.len);
        buf_release(&input);
    }
    printf("%d inputs\n", argc - 1);
    return 0;
}
