// SPDX-License-Identifier: GPL-2.0
/*
 * Counters of commands and keys, in /sys/block/DISK/crypto_stats.  They start
 * at 0 when the driver binds to the device.
 */
#include <linux/sysfs.h>

#include "virtio_blk_crypto.h"
#include "vbc_crypto.h"

static ssize_t vbc_show_counter(const atomic64_t *counter, char *buf)
{
	return sysfs_emit(buf, "%llu\n", (u64)atomic64_read(counter));
}

static struct vbc_crypto *vbc_crypto_of(struct device *dev)
{
	struct vbc_dev *vbc = dev_to_disk(dev)->private_data;

	return vbc->crypto;
}

/* Commands that were sent */
static ssize_t commands_show(struct device *dev, struct device_attribute *attr,
			     char *buf)
{
	return vbc_show_counter(&vbc_crypto_of(dev)->commands, buf);
}
static DEVICE_ATTR_RO(commands);

/* Commands that the device answered with an error */
static ssize_t refused_show(struct device *dev, struct device_attribute *attr,
			    char *buf)
{
	return vbc_show_counter(&vbc_crypto_of(dev)->refused, buf);
}
static DEVICE_ATTR_RO(refused);

/* Requests that came back NOKEY and were retried */
static ssize_t nokey_retries_show(struct device *dev,
				  struct device_attribute *attr, char *buf)
{
	return vbc_show_counter(&vbc_crypto_of(dev)->nokey_retries, buf);
}
static DEVICE_ATTR_RO(nokey_retries);

/* How often all keys were programmed again because the device had lost them */
static ssize_t reprograms_show(struct device *dev,
			       struct device_attribute *attr, char *buf)
{
	return vbc_show_counter(&vbc_crypto_of(dev)->reprograms, buf);
}
static DEVICE_ATTR_RO(reprograms);

static struct attribute *vbc_crypto_attrs[] = {
	&dev_attr_commands.attr,
	&dev_attr_refused.attr,
	&dev_attr_nokey_retries.attr,
	&dev_attr_reprograms.attr,
	NULL,
};

static bool vbc_crypto_group_visible(struct kobject *kobj)
{
	struct vbc_crypto *vc = vbc_crypto_of(kobj_to_dev(kobj));

	return vc && vc->profile_valid;
}

DEFINE_SIMPLE_SYSFS_GROUP_VISIBLE(vbc_crypto);

const struct attribute_group vbc_crypto_attr_group = {
	.name		= "crypto_stats",
	.attrs		= vbc_crypto_attrs,
	.is_visible	= SYSFS_GROUP_VISIBLE(vbc_crypto),
};
