// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * add-wrapped-key - adds a hardware-wrapped master key to a file system with fscrypt (kernel 6.16 or later)
 *
 * The key must be ephemerally wrapped, as by `blk-crypto-key DEV prepare`. Prints the key's identifier, which policies
 * contain. If the kernel refuses, it exits with status 1 and prints the name of the error number to stderr, alone on
 * a line, as blk-crypto-key does. For wrong files or arguments the status is 2.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* The kernel accepts at most 128 bytes. With more room, a test can pass too much. */
#define ROOM 1024

/* struct fscrypt_key_specifier and fscrypt_add_key_arg of linux/fscrypt.h, as of 6.16 */
struct key_specifier {
	uint32_t type;
	uint32_t reserved;
	union {
		uint8_t room[32];
		uint8_t identifier[16];
	} u;
};

struct add_key {
	struct key_specifier spec;
	uint32_t raw_size;
	uint32_t key_id;
	uint32_t flags;
	uint32_t reserved[7];
	uint8_t raw[ROOM];
};

#define SPEC_IDENTIFIER 2
#define FLAG_HW_WRAPPED 1
/* The kernel encodes this ioctl with the size of the argument without the key. */
#define IOC_ADD_KEY _IOC(_IOC_READ | _IOC_WRITE, 'f', 23, sizeof(struct add_key) - ROOM)

static int trouble(const char *name)
{
	fprintf(stderr, "add-wrapped-key: %s: %s\n", name, strerror(errno));
	return 2;
}

int main(int argc, char **argv)
{
	struct add_key arg = { .spec.type = SPEC_IDENTIFIER, .flags = FLAG_HW_WRAPPED };
	FILE *f;
	int dir;

	if (argc != 3) {
		fprintf(stderr, "usage: add-wrapped-key DIRECTORY KEY-FILE\n");
		return 2;
	}
	f = fopen(argv[2], "rb");
	if (!f)
		return trouble(argv[2]);
	arg.raw_size = fread(arg.raw, 1, sizeof(arg.raw), f);
	if (ferror(f))
		return trouble(argv[2]);
	fclose(f);
	dir = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return trouble(argv[1]);
	if (ioctl(dir, IOC_ADD_KEY, &arg) != 0) {
		const char *name = strerrorname_np(errno);

		fprintf(stderr, "%s\n", name ? name : "unknown");
		return 1;
	}
	for (size_t i = 0; i < sizeof(arg.spec.u.identifier); i++)
		printf("%02x", arg.spec.u.identifier[i]);
	printf("\n");
	return fflush(stdout) == 0 ? 0 : trouble("stdout");
}
