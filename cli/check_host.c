/* What the worker needs of the machine to call Talview, and no library of ours brings along: looked at before
   the first call, since on shared hosting it may not be there. */
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "../common/talview.h"

#define RESOLV_CONF "/etc/resolv.conf"

static bool calls_out(const struct config_proview *account)
{
    return account->username && account->password && account->app_id;
}

static void check_authorities(struct check_report *report, const struct config *config)
{
    struct buf why = BUF_INIT;
    const char *bundle = talview_authorities(&why);

    if (bundle)
        check_line(report, CHECK_OK, "certificate authorities", NULL, "%s", bundle);
    for (size_t i = 0; !bundle && i < config->proview_count; i++) {
        const struct config_proview *account = &config->proview[i];

        if (calls_out(account) && !account->ca_file)
            check_line(report, report->start ? CHECK_WARNING : CHECK_FAILED, "certificate authorities",
                       "install ca-certificates, or name a file by ca_file or SSL_CERT_FILE",
                       "nothing is called for [proview %s]: %s", account->name, buf_str(&why));
    }
    buf_release(&why);
}

/* Without a name server listed, one on this machine itself is asked; few hosts have that. */
static void check_names(struct check_report *report)
{
    FILE *file = fopen(RESOLV_CONF, "re");
    char line[256];
    bool listed = false;

    while (file && !listed && fgets(line, sizeof(line), file))
        listed = strncmp(line, "nameserver", strlen("nameserver")) == 0;
    if (listed)
        check_line(report, CHECK_OK, "name servers", NULL, "%s lists them", RESOLV_CONF);
    else
        check_line(report, CHECK_WARNING, "name servers",
                   "ask the host; without one Talview's address may not be found", "%s %s", RESOLV_CONF,
                   file ? "lists none" : "cannot be read");
    if (file)
        fclose(file);
}

void check_host(struct check_report *report, const char *path)
{
    struct config *config = NULL;
    struct buf why = BUF_INIT;
    bool any = false;

    /* Refused: another check has said so. */
    if (config_load(path, CONFIG_WORKER, &config, &why)) {
        for (size_t i = 0; i < config->proview_count; i++)
            any = any || calls_out(&config->proview[i]);
    }
    if (any) {
        check_authorities(report, config);
        if (!config->proxy)
            check_names(report);
    }
    config_free(config);
    buf_release(&why);
}
