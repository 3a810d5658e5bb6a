/*
 * What the static programs have in place of those functions of the C library that would load a shared library
 * of the host at run time (the name service switch, dlopen): the host's is another one than ours, and calling
 * into it crashes. `build` gives each name in INSTEAD_OF() to the linker as --wrap, and takes the linker's
 * warning of any other such function for an error.
 *
 * Who would call them:
 *   gethostbyname            libfcgi, to connect to a FastCGI server elsewhere; libcrypto's BIO_lookup
 *   getaddrinfo, getnameinfo libcrypto's BIO_lookup and BIO_ADDR. libcurl resolves names by c-ares
 *   getservbyname, ..port_r  c-ares, for a service by name; libcurl gives it numbers
 *   dlopen and its like      SQLite's load_extension, libcrypto's engines and providers in files: all unused
 *   getgrnam                 --socket-group
 */
#include <dlfcn.h>
#include <errno.h>
#include <grp.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

#define INSTEAD_OF(name) __asm__("__wrap_" #name)

struct group *static_getgrnam(const char *name) INSTEAD_OF(getgrnam);
struct hostent *static_gethostbyname(const char *name) INSTEAD_OF(gethostbyname);
int static_getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                       struct addrinfo **result) INSTEAD_OF(getaddrinfo);
void static_freeaddrinfo(struct addrinfo *list) INSTEAD_OF(freeaddrinfo);
int static_getnameinfo(const struct sockaddr *address, socklen_t address_len, char *host, socklen_t host_len,
                       char *service, socklen_t service_len, int flags) INSTEAD_OF(getnameinfo);
struct servent *static_getservbyname(const char *name, const char *protocol) INSTEAD_OF(getservbyname);
int static_getservbyport_r(int port, const char *protocol, struct servent *entry, char *buffer, size_t size,
                           struct servent **result) INSTEAD_OF(getservbyport_r);
void *static_dlopen(const char *file, int mode) INSTEAD_OF(dlopen);
void *static_dlsym(void *handle, const char *name) INSTEAD_OF(dlsym);
int static_dlclose(void *handle) INSTEAD_OF(dlclose);
char *static_dlerror(void) INSTEAD_OF(dlerror);
int static_dladdr(const void *address, Dl_info *info) INSTEAD_OF(dladdr);

/* A group of /etc/group, as the file has it: one of LDAP or NIS is not found. */
struct group *static_getgrnam(const char *name)
{
    FILE *file = fopen("/etc/group", "re");
    struct group *found = NULL;

    while (file && (found = fgetgrent(file)) && strcmp(found->gr_name, name) != 0)
        ;
    if (file)
        fclose(file);
    return found;
}

struct hostent *static_gethostbyname(const char *name)
{
    (void)name;
    h_errno = NO_RECOVERY;
    return NULL;
}

int static_getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                       struct addrinfo **result)
{
    (void)name;
    (void)service;
    (void)hints;
    (void)result;
    return EAI_FAIL;
}

void static_freeaddrinfo(struct addrinfo *list)
{
    (void)list;
}

int static_getnameinfo(const struct sockaddr *address, socklen_t address_len, char *host, socklen_t host_len,
                       char *service, socklen_t service_len, int flags)
{
    (void)address;
    (void)address_len;
    (void)host;
    (void)host_len;
    (void)service;
    (void)service_len;
    (void)flags;
    return EAI_FAIL;
}

struct servent *static_getservbyname(const char *name, const char *protocol)
{
    (void)name;
    (void)protocol;
    return NULL;
}

int static_getservbyport_r(int port, const char *protocol, struct servent *entry, char *buffer, size_t size,
                           struct servent **result)
{
    (void)port;
    (void)protocol;
    (void)entry;
    (void)buffer;
    (void)size;
    *result = NULL;
    return ENOENT;
}

void *static_dlopen(const char *file, int mode)
{
    (void)file;
    (void)mode;
    return NULL;
}

void *static_dlsym(void *handle, const char *name)
{
    (void)handle;
    (void)name;
    return NULL;
}

int static_dlclose(void *handle)
{
    (void)handle;
    return 0;
}

char *static_dlerror(void)
{
    static char why[] = "a static program loads nothing";
    return why;
}

int static_dladdr(const void *address, Dl_info *info)
{
    (void)address;
    *info = (Dl_info){0};
    return 0;
}
