#include "routes.h"

int main(int argc, char **argv)
{
    return server_main(&examjoint_route, argc, argv);
}
