#include "routes.h"

int main(int argc, char **argv)
{
    return server_main(&proview_route, argc, argv);
}
