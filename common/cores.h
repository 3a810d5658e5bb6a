/*
 * How many processor cores this process may really use: a machine's cores, less what its affinity
 * (taskset, AllowedCPUs=) and the quota of its control groups (CPUQuota=, a container's limit) take away.
 */
#ifndef EXAMHOOK_CORES_H
#define EXAMHOOK_CORES_H

/* At least 1. Of a quota only whole cores count: a check that is stopped in its middle helps nobody. */
int cores_usable(void);
/* The quota alone, as it stands in `membership` (/proc/self/cgroup) and below `root` (/sys/fs/cgroup), both
   versions. In hundredths of a core; 0: no quota, or none that can be read. */
long cores_quota_percent(const char *membership, const char *root);

#endif
