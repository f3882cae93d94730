// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * used-ring FUNCTION QUEUE: prints the physical address and the number of elements of a used ring that a driver has set up.
 *
 * FUNCTION is the device's directory in /sys/bus/pci/devices. The driver owns the device's registers, so the program reads them
 * through the config space, as virtio allows (VIRTIO_PCI_CAP_PCI_CFG).
 */
#include <err.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int config;

static uint32_t get(off_t at, size_t size)
{
	uint32_t value = 0;

	if (pread(config, &value, size, at) != (ssize_t)size)
		err(1, "cannot read config space");
	return value;
}

static void set(off_t at, uint32_t value, size_t size)
{
	if (pwrite(config, &value, size, at) != (ssize_t)size)
		err(1, "cannot write config space");
}

/* The place of a capability of virtio in config space */
static off_t capability(int type)
{
	off_t at;

	for (at = get(PCI_CAPABILITY_LIST, 1); at; at = get(at + PCI_CAP_LIST_NEXT, 1))
		if (get(at, 1) == PCI_CAP_ID_VNDR && get(at + offsetof(struct virtio_pci_cap, cfg_type), 1) == (uint32_t)type)
			return at;
	errx(1, "no virtio capability %d", type);
}

/* Points the window in config space at a register of the common configuration. */
static off_t window(off_t reg, size_t size)
{
	off_t cap = capability(VIRTIO_PCI_CAP_PCI_CFG), common = capability(VIRTIO_PCI_CAP_COMMON_CFG);

	set(cap + offsetof(struct virtio_pci_cap, bar), get(common + offsetof(struct virtio_pci_cap, bar), 1), 1);
	set(cap + offsetof(struct virtio_pci_cap, offset), get(common + offsetof(struct virtio_pci_cap, offset), 4) + reg, 4);
	set(cap + offsetof(struct virtio_pci_cap, length), size, 4);
	return cap + offsetof(struct virtio_pci_cfg_cap, pci_cfg_data);
}

int main(int argc, char **argv)
{
	char path[PATH_MAX];
	uint64_t ring;

	if (argc != 3)
		errx(2, "usage: used-ring FUNCTION QUEUE");
	snprintf(path, sizeof(path), "%s/config", argv[1]);
	config = open(path, O_RDWR);
	if (config < 0)
		err(1, "%s", path);
	set(window(VIRTIO_PCI_COMMON_Q_SELECT, 2), atoi(argv[2]), 2);
	ring = get(window(VIRTIO_PCI_COMMON_Q_USEDLO, 4), 4);
	ring |= (uint64_t)get(window(VIRTIO_PCI_COMMON_Q_USEDHI, 4), 4) << 32;
	printf("%llu %u\n", (unsigned long long)ring, get(window(VIRTIO_PCI_COMMON_Q_SIZE, 2), 2));
	return 0;
}
