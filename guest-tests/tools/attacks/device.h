/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A virtio-pci device (virtio 1.4, 4.1) driven from user space. Its registers are mapped through sysfs. Its memory is huge
 * pages, whose physical addresses are in /proc/self/pagemap. The device must have no driver and no IOMMU.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_alg.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HUGE (2u << 20)
#define MAX_SIZE 256
/* Two request queues and the control queue, where there is one. */
#define MAX_QUEUES 3

#define NEXT 1
#define WRITE 2
#define INDIRECT 4

/* Feature bits. */
#define F_FLUSH 9
#define F_MQ 12
#define F_DISCARD 13
#define F_WRITE_ZEROES 14
#define F_CTRL_VQ 22
#define F_INLINE_ENCRYPTION 23
#define F_INDIRECT 28
#define F_EVENT_IDX 29
#define F_VERSION_1 32

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

struct used_elem {
	uint32_t id;
	uint32_t len;
};

/* Memory that the device can reach: one huge page. */
struct page {
	uint8_t *mem;
	uint64_t phys;
};

/* Layout of a queue's page. */
enum { AVAIL_AT = 0x1000, USED_AT = 0x2000, TABLES_AT = 0x4000, SLOTS_AT = 0x10000, DATA_AT = 0x100000 };
/* A slot for each head: a readable part, and the status in its last byte. */
enum { SLOT = 512, STATUS_AT = SLOT - 1, DATA = 4096, TABLE = 64 };

struct queue {
	unsigned index, size;
	struct page page;
	volatile struct desc *desc;
	volatile uint16_t *avail; /* flags, index, heads */
	volatile uint16_t *used;  /* flags, index, then elements */
	volatile uint16_t *notify;
	uint16_t next_avail, next_used;
};

static struct {
	uint8_t *bars[6];
	uint64_t bar_phys[6];
	volatile uint8_t *common, *notify, *config;
	uint32_t notify_multiplier;
	uint64_t features;
	unsigned queues, control; /* control: index of the control queue, 0 for none */
	uint64_t sectors;
	struct queue queue[MAX_QUEUES];
	/* For attacks: data, headers, tables. */
	struct page data, headers, tables;
} dev;

/* The current attack, for error messages. */
static char what[160] = "start";
static uint64_t seed;

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
	va_list args;

	fflush(stdout);
	fprintf(stderr, "hostile: seed %llu: %s: ", (unsigned long long)seed, what);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

/* xorshift; each thread has a state of its own. */
static __thread uint64_t random_state;

static uint64_t below(uint64_t bound)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (random_state >> 11) % bound;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static struct page huge_page(void)
{
	struct page page;
	uint64_t entry;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	page.mem = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
	if (page.mem == MAP_FAILED)
		fail("no huge page: %s", strerror(errno));
	if (fd < 0 || pread(fd, &entry, 8, (uintptr_t)page.mem / 4096 * 8) != 8 || !(entry >> 63) || !(entry << 9))
		fail("the physical address of a page is not known");
	close(fd);
	page.phys = (entry & ((1ull << 55) - 1)) * 4096;
	return page;
}

#define REG(type, offset) (*(volatile type *)(dev.common + (offset)))

static uint8_t *map_bar(const char *device, unsigned bar)
{
	char path[256];
	struct stat st;
	int fd;

	if (bar > 5)
		fail("capability in BAR %u", bar);
	if (dev.bars[bar])
		return dev.bars[bar];
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource%u", device, bar);
	fd = open(path, O_RDWR | O_SYNC);
	if (fd < 0 || fstat(fd, &st))
		fail("%s: %s", path, strerror(errno));
	dev.bars[bar] = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (dev.bars[bar] == MAP_FAILED)
		fail("%s: %s", path, strerror(errno));
	close(fd);
	return dev.bars[bar];
}

static void open_device(const char *device)
{
	uint8_t config[256];
	char path[256];
	uint16_t command;
	unsigned at, i;
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", device);
	fd = open(path, O_RDWR);
	if (fd < 0 || pread(fd, config, sizeof(config), 0) != sizeof(config))
		fail("%s: %s", path, strerror(errno));
	/* Memory, bus master, no INTx. */
	command = config[4] | config[5] << 8 | 0x406;
	if (pwrite(fd, &command, 2, 4) != 2)
		fail("%s: %s", path, strerror(errno));
	close(fd);
	for (i = 0; i < 6; i++) {
		uint32_t low, high = 0;

		memcpy(&low, config + 0x10 + 4 * i, 4);
		if ((low & 6) == 4 && i < 5)
			memcpy(&high, config + 0x14 + 4 * i, 4);
		dev.bar_phys[i] = (uint64_t)high << 32 | (low & ~15u);
		i += (low & 6) == 4;
	}
	for (at = config[0x34]; at; at = config[at + 1]) {
		uint32_t offset;
		uint8_t *base;

		if (config[at] != 9 || config[at + 3] < 1 || config[at + 3] > 4 || config[at + 3] == 3)
			continue;
		memcpy(&offset, config + at + 8, 4);
		base = map_bar(device, config[at + 4]) + offset;
		switch (config[at + 3]) {
		case 1: dev.common = base; break;
		case 2: dev.notify = base; memcpy(&dev.notify_multiplier, config + at + 16, 4); break;
		case 4: dev.config = base; break;
		}
	}
	if (!dev.common || !dev.notify || !dev.config)
		fail("not a modern virtio device");
	for (i = 0; i < MAX_QUEUES; i++)
		dev.queue[i].page = huge_page();
	dev.data = huge_page();
	dev.headers = huge_page();
	dev.tables = huge_page();
}

/* A physical address where no memory is: the device's own registers. */
static uint64_t registers(void)
{
	for (unsigned i = 6; i-- > 0;)
		if (dev.bars[i])
			return dev.bar_phys[i];
	return 0xc0000000;
}

static void reset(void)
{
	double end = now() + 20;

	REG(uint8_t, 20) = 0;
	while (REG(uint8_t, 20)) {
		if (now() > end)
			fail("the device cannot be reset");
		usleep(1000);
	}
}

static void set_up(struct queue *q, unsigned index, unsigned size)
{
	uint64_t at[3] = {q->page.phys, q->page.phys + AVAIL_AT, q->page.phys + USED_AT};

	REG(uint16_t, 22) = index;
	if (REG(uint16_t, 24) < size)
		size = REG(uint16_t, 24);
	if (size < 16)
		fail("queue %u has %u entries", index, size);
	REG(uint16_t, 24) = size;
	memset(q->page.mem, 0, SLOTS_AT);
	q->index = index;
	q->size = size;
	q->desc = (void *)q->page.mem;
	q->avail = (void *)(q->page.mem + AVAIL_AT);
	q->used = (void *)(q->page.mem + USED_AT);
	q->next_avail = q->next_used = 0;
	q->avail[0] = 1; /* no interrupts */
	for (int i = 0; i < 3; i++) {
		REG(uint32_t, 32 + 8 * i) = at[i];
		REG(uint32_t, 36 + 8 * i) = at[i] >> 32;
	}
	q->notify = (volatile uint16_t *)(dev.notify + REG(uint16_t, 30) * dev.notify_multiplier);
	REG(uint16_t, 28) = 1;
}

/* Resets the device and sets it up, with rings of this many entries, or as many as it supports. */
static void start(unsigned size)
{
	uint64_t offered, wanted = 1ull << F_VERSION_1 | 1 << F_INDIRECT | 1 << F_MQ | 1 << F_FLUSH | 1 << F_DISCARD |
		1 << F_WRITE_ZEROES | 1 << F_CTRL_VQ | 1 << F_INLINE_ENCRYPTION;

	reset();
	REG(uint8_t, 20) = 3;
	REG(uint32_t, 0) = 0;
	offered = REG(uint32_t, 4);
	REG(uint32_t, 0) = 1;
	offered |= (uint64_t)REG(uint32_t, 4) << 32;
	if (below(2))
		wanted |= 1 << F_EVENT_IDX;
	dev.features = offered & wanted;
	REG(uint32_t, 8) = 0;
	REG(uint32_t, 12) = dev.features;
	REG(uint32_t, 8) = 1;
	REG(uint32_t, 12) = dev.features >> 32;
	REG(uint8_t, 20) = 11;
	if (!(REG(uint8_t, 20) & 8))
		fail("the device refuses features");
	dev.sectors = *(volatile uint32_t *)dev.config | (uint64_t) * (volatile uint32_t *)(dev.config + 4) << 32;
	dev.control = dev.features >> F_INLINE_ENCRYPTION & 1 ? 2 : 0;
	dev.queues = dev.control ? 3 : 2;
	for (unsigned i = 0; i < dev.queues; i++)
		set_up(&dev.queue[i], i, size);
	REG(uint8_t, 20) = 15;
}
