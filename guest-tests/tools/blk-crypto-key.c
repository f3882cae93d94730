// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * blk-crypto-key - makes and converts hardware-wrapped keys with the ioctls of a block device (kernel 6.15 or later)
 *
 *   import    a raw key (IN-FILE) becomes a long-term wrapped key (OUT-FILE)
 *   generate  the device makes a long-term wrapped key (OUT-FILE)
 *   prepare   a long-term wrapped key (IN-FILE) becomes an ephemerally wrapped one (OUT-FILE)
 *
 * If an ioctl fails, it exits with status 1 and prints the name of the error number to stderr, such as "EBADMSG", alone on
 * a line: blk-crypto-key ... 2> error; [ "$(cat error)" = EBADMSG ]. For wrong files or arguments the status is 2.
 * -s SIZE offers the kernel room for SIZE bytes of OUT-FILE, by default as much as the kernel ever needs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* <linux/blk-crypto.h>, which distributions' headers may still lack */
struct import_key_arg {
	uint64_t raw_key_ptr;
	uint64_t raw_key_size;
	uint64_t lt_key_ptr;
	uint64_t lt_key_size;
	uint64_t reserved[4];
};

struct generate_key_arg {
	uint64_t lt_key_ptr;
	uint64_t lt_key_size;
	uint64_t reserved[4];
};

struct prepare_key_arg {
	uint64_t lt_key_ptr;
	uint64_t lt_key_size;
	uint64_t eph_key_ptr;
	uint64_t eph_key_size;
	uint64_t reserved[4];
};

#define IMPORT_KEY _IOWR(0x12, 137, struct import_key_arg)
#define GENERATE_KEY _IOWR(0x12, 138, struct generate_key_arg)
#define PREPARE_KEY _IOWR(0x12, 139, struct prepare_key_arg)

/* The kernel accepts and returns at most 128 bytes. With more room, a test can ask for too much. */
#define ROOM 1024
#define MAX_WRAPPED_KEY 128

static uint8_t in[ROOM], out[ROOM];

static uint64_t address(const void *p)
{
	return (uintptr_t)p;
}

/* How many bytes of out the kernel wrote, or -1 and errno */
static int64_t run(int disk, const char *verb, uint64_t in_size, uint64_t room)
{
	if (strcmp(verb, "import") == 0) {
		struct import_key_arg arg = { address(in), in_size, address(out), room, { 0 } };

		return ioctl(disk, IMPORT_KEY, &arg) == 0 ? (int64_t)arg.lt_key_size : -1;
	}
	if (strcmp(verb, "prepare") == 0) {
		struct prepare_key_arg arg = { address(in), in_size, address(out), room, { 0 } };

		return ioctl(disk, PREPARE_KEY, &arg) == 0 ? (int64_t)arg.eph_key_size : -1;
	}
	struct generate_key_arg arg = { address(out), room, { 0 } };

	return ioctl(disk, GENERATE_KEY, &arg) == 0 ? (int64_t)arg.lt_key_size : -1;
}

static int trouble(const char *name)
{
	fprintf(stderr, "blk-crypto-key: %s: %s\n", name, strerror(errno));
	return 2;
}

static int usage(void)
{
	fprintf(stderr, "usage: blk-crypto-key [-s SIZE] DEV import|prepare IN-FILE OUT-FILE\n"
			"       blk-crypto-key [-s SIZE] DEV generate OUT-FILE\n");
	return 2;
}

int main(int argc, char **argv)
{
	const char *verb, *in_name, *out_name;
	unsigned long room = MAX_WRAPPED_KEY;
	size_t in_size = 0;
	int64_t out_size;
	char *end;
	FILE *f;
	int opt, disk;

	/* "+": options end at the first argument. */
	while ((opt = getopt(argc, argv, "+s:")) != -1) {
		if (opt != 's')
			return usage();
		room = strtoul(optarg, &end, 0);
		if (end == optarg || *end || room > ROOM)
			return usage();
	}
	argc -= optind;
	argv += optind;
	if (argc < 3)
		return usage();
	verb = argv[1];
	if (strcmp(verb, "generate") == 0 ? argc != 3 :
	    (strcmp(verb, "import") != 0 && strcmp(verb, "prepare") != 0) || argc != 4)
		return usage();
	in_name = argc == 4 ? argv[2] : NULL;
	out_name = argv[argc - 1];

	if (in_name) {
		f = fopen(in_name, "rb");
		if (!f)
			return trouble(in_name);
		in_size = fread(in, 1, sizeof(in), f);
		if (ferror(f))
			return trouble(in_name);
		fclose(f);
	}
	disk = open(argv[0], O_RDONLY | O_CLOEXEC);
	if (disk < 0)
		return trouble(argv[0]);

	out_size = run(disk, verb, in_size, room);
	if (out_size < 0) {
		const char *name = strerrorname_np(errno);

		fprintf(stderr, "%s\n", name ? name : "unknown");
		return 1;
	}
	if (out_size > (int64_t)room) {
		fprintf(stderr, "blk-crypto-key: the kernel says it wrote %lld bytes into %lu\n", (long long)out_size, room);
		return 2;
	}

	f = fopen(out_name, "wb");
	if (!f || fwrite(out, 1, (size_t)out_size, f) != (size_t)out_size || fclose(f) != 0)
		return trouble(out_name);
	return 0;
}
