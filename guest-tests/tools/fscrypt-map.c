// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * fscrypt-map - report to the host where an encrypted file is and how it is encrypted
 *
 * Prints one JSON object per file argument: all that a program with the disk image, the master key and the plaintext
 * needs to compute the file's ciphertext and to find it. The same for the names in a directory. It fails only where the
 * answer would be useless: extents that are not on the disk yet, or whose data is inside metadata.
 *
 * The ioctl structures are spelled out here: an older system's headers lack some of the fields.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/fiemap.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXTENTS_PER_CALL 64

/* struct fscrypt_policy_v2 of linux/fscrypt.h, as of 6.7 */
struct policy_v2 {
	uint8_t version;
	uint8_t contents_mode;
	uint8_t filenames_mode;
	uint8_t flags;
	uint8_t log2_data_unit_size;
	uint8_t reserved[3];
	uint8_t identifier[16];
};

/* struct fscrypt_get_policy_ex_arg: the kernel reads the size and writes the policy over the rest */
struct get_policy_ex {
	uint64_t size;
	union {
		uint8_t version;
		struct policy_v2 v2;
		uint8_t room[64];
	} policy;
};

/* struct fsuuid2 of linux/fs.h, as of 6.9 */
struct fs_uuid {
	uint8_t len;
	uint8_t uuid[16];
};

/* The kernel encodes this ioctl with a 9-byte argument, whatever the real size is. */
#define IOC_GET_POLICY_EX _IOC(_IOC_READ | _IOC_WRITE, 'f', 22, 9)
#define IOC_GET_NONCE _IOC(_IOC_READ, 'f', 27, 16)
#define IOC_GET_UUID _IOC(_IOC_READ, 0x15, 0, sizeof(struct fs_uuid))
#define IOC_FIEMAP _IOC(_IOC_READ | _IOC_WRITE, 'f', 11, sizeof(struct fiemap))
#define IOC_BLOCK_SIZE _IO(0x00, 2)

struct options {
	const char *uuid;
	const char *strip;
	const char *prefix;
	uint64_t offset;
	uint64_t size;
	bool has_size;
	bool plain;
	bool names;
};

static const char usage[] =
	"usage: fscrypt-map [OPTION...] FILE...\n"
	"  --offset BYTES   where the file system begins on the disk (default 0)\n"
	"  --uuid UUID      the file system's UUID, for file systems that do not report it\n"
	"  --strip PREFIX   remove this from the path to get the name of the plaintext copy\n"
	"  --prefix PREFIX  put this before that name\n"
	"  --size BYTES     the length to report, to include what the file system stores after the file's end\n"
	"  --extents        print only the extents, also of files that are not encrypted\n"
	"  --names          the arguments are encrypted directories: print where their entries lie, and all names in them\n";

static void print_string(const char *s)
{
	putchar('"');
	for (; *s; s++) {
		unsigned char c = *s;

		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < 0x20)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

static void print_hex(const uint8_t *p, size_t n)
{
	putchar('"');
	while (n--)
		printf("%02x", *p++);
	putchar('"');
}

static int complain(const char *path, const char *what)
{
	fprintf(stderr, "fscrypt-map: %s: %s: %s\n", path, what, strerror(errno));
	return -1;
}

static int refuse(const char *path, const char *why)
{
	fprintf(stderr, "fscrypt-map: %s: %s\n", path, why);
	return -1;
}

/* Makes as many calls as it takes for all extents. The file system writes out delayed data first. */
static int print_extents(int fd, const char *path)
{
	const uint32_t unusable = FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_NOT_ALIGNED |
				  FIEMAP_EXTENT_DATA_INLINE | FIEMAP_EXTENT_DATA_TAIL;
	uint64_t start = 0;
	bool first = true, last = false;
	struct fiemap *map;
	int ret = -1;

	map = calloc(1, sizeof(*map) + EXTENTS_PER_CALL * sizeof(map->fm_extents[0]));
	if (!map)
		return complain(path, "memory");

	printf("\"extents\":[");
	while (!last) {
		memset(map, 0, sizeof(*map));
		map->fm_start = start;
		map->fm_length = FIEMAP_MAX_OFFSET - start;
		map->fm_flags = FIEMAP_FLAG_SYNC;
		map->fm_extent_count = EXTENTS_PER_CALL;
		if (ioctl(fd, IOC_FIEMAP, map) != 0) {
			complain(path, "FIEMAP");
			goto out;
		}
		if (map->fm_mapped_extents == 0)
			break;
		for (uint32_t i = 0; i < map->fm_mapped_extents; i++) {
			const struct fiemap_extent *e = &map->fm_extents[i];

			if (e->fe_flags & unusable) {
				refuse(path, "its data is not in blocks of its own on the disk (not written out, or inline)");
				goto out;
			}
			printf("%s{\"logical\":%llu,\"physical\":%llu,\"length\":%llu,\"flags\":%u}", first ? "" : ",",
			       (unsigned long long)e->fe_logical, (unsigned long long)e->fe_physical,
			       (unsigned long long)e->fe_length, e->fe_flags);
			first = false;
			start = e->fe_logical + e->fe_length;
			last = e->fe_flags & FIEMAP_EXTENT_LAST;
		}
	}
	putchar(']');
	ret = 0;
out:
	free(map);
	return ret;
}

static int print_uuid(int fd, const char *path, const struct options *opt)
{
	struct fs_uuid u = { 0 };

	printf("\"fs_uuid\":");
	if (opt->uuid) {
		print_string(opt->uuid);
		return 0;
	}
	if (ioctl(fd, IOC_GET_UUID, &u) != 0)
		return complain(path, "the file system does not report its UUID (give --uuid)");
	if (u.len != sizeof(u.uuid))
		return refuse(path, "the file system's UUID is not 16 bytes long");
	print_hex(u.uuid, sizeof(u.uuid));
	return 0;
}

static int print_encryption(int fd, const char *path)
{
	struct get_policy_ex arg = { .size = sizeof(arg.policy) };
	uint8_t nonce[16];

	if (ioctl(fd, IOC_GET_POLICY_EX, &arg) != 0)
		return complain(path, "FS_IOC_GET_ENCRYPTION_POLICY_EX");
	if (arg.policy.version != 2)
		return refuse(path, "its encryption policy is not of version 2");
	if (ioctl(fd, IOC_GET_NONCE, nonce) != 0)
		return complain(path, "FS_IOC_GET_ENCRYPTION_NONCE");

	printf("\"policy\":{\"version\":%u,\"contents_mode\":%u,\"filenames_mode\":%u,\"flags\":%u,"
	       "\"log2_data_unit_size\":%u,\"key_identifier\":",
	       arg.policy.v2.version, arg.policy.v2.contents_mode, arg.policy.v2.filenames_mode, arg.policy.v2.flags,
	       arg.policy.v2.log2_data_unit_size);
	print_hex(arg.policy.v2.identifier, sizeof(arg.policy.v2.identifier));
	printf("},\"nonce\":");
	print_hex(nonce, sizeof(nonce));
	return 0;
}

/* Every entry of a directory but itself and its parent */
static int print_names(int fd, const char *path)
{
	struct dirent *entry;
	bool first = true;
	int own = dup(fd);
	DIR *dir = own < 0 ? NULL : fdopendir(own);

	if (!dir)
		return complain(path, "opendir");
	printf("\"names\":[");
	while (errno = 0, (entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		printf("%s{\"name\":", first ? "" : ",");
		print_string(entry->d_name);
		printf(",\"ino\":%llu}", (unsigned long long)entry->d_ino);
		first = false;
	}
	if (errno) {
		complain(path, "readdir");
		closedir(dir);
		return -1;
	}
	closedir(dir);
	putchar(']');
	return 0;
}

static int map_open_file(int fd, const char *path, const struct options *opt)
{
	const char *name = path;
	struct stat st;
	int block_size;

	if (fstat(fd, &st) != 0)
		return complain(path, "stat");
	if (opt->names ? !S_ISDIR(st.st_mode) : !S_ISREG(st.st_mode))
		return refuse(path, opt->names ? "not a directory" : "not a regular file");
	if (ioctl(fd, IOC_BLOCK_SIZE, &block_size) != 0)
		return complain(path, "FIGETBSZ");
	if (opt->strip && strncmp(path, opt->strip, strlen(opt->strip)) == 0)
		name += strlen(opt->strip);

	printf("{\"kind\":\"%s\",\"path\":", opt->plain ? "extents" : opt->names ? "names" : "fscrypt");
	print_string(path);
	printf(",\"ino\":%llu,\"size\":%llu,\"offset\":%llu,\"block_size\":%d,", (unsigned long long)st.st_ino,
	       (unsigned long long)(opt->has_size ? opt->size : (uint64_t)st.st_size), (unsigned long long)opt->offset, block_size);
	if (!opt->plain && !opt->names) {
		char *plain;

		if (asprintf(&plain, "%s%s", opt->prefix ? opt->prefix : "", name) < 0)
			return complain(path, "memory");
		printf("\"plain\":");
		print_string(plain);
		free(plain);
		putchar(',');
	}
	if (!opt->plain) {
		if (print_uuid(fd, path, opt) != 0)
			return -1;
		putchar(',');
		if (print_encryption(fd, path) != 0)
			return -1;
		putchar(',');
	}
	if (print_extents(fd, path) != 0)
		return -1;
	if (opt->names) {
		putchar(',');
		if (print_names(fd, path) != 0)
			return -1;
	}
	printf("}\n");
	return 0;
}

static int map_file(const char *path, const struct options *opt)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return complain(path, "open");
	ret = map_open_file(fd, path, opt);
	close(fd);
	return ret;
}

/* The argument of the option that getopt has just returned. */
static int parse_bytes(const char *option, uint64_t *value)
{
	char *end;

	errno = 0;
	*value = strtoull(optarg, &end, 0);
	if (errno || *end || end == optarg) {
		fprintf(stderr, "fscrypt-map: %s needs a number of bytes, not \"%s\"\n", option, optarg);
		return -1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	static const struct option longopts[] = {
		{ "offset", required_argument, NULL, 'o' }, { "uuid", required_argument, NULL, 'u' },
		{ "strip", required_argument, NULL, 's' },  { "prefix", required_argument, NULL, 'p' },
		{ "size", required_argument, NULL, 'S' },   { "extents", no_argument, NULL, 'e' },
		{ "names", no_argument, NULL, 'n' },	    { "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct options opt = { 0 };
	int c;

	while ((c = getopt_long(argc, argv, "", longopts, NULL)) != -1) {
		switch (c) {
		case 'o':
			if (parse_bytes("--offset", &opt.offset) != 0)
				return 2;
			break;
		case 'S':
			if (parse_bytes("--size", &opt.size) != 0)
				return 2;
			opt.has_size = true;
			break;
		case 'u':
			opt.uuid = optarg;
			break;
		case 's':
			opt.strip = optarg;
			break;
		case 'p':
			opt.prefix = optarg;
			break;
		case 'e':
			opt.plain = true;
			break;
		case 'n':
			opt.names = true;
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	if (optind == argc) {
		fputs(usage, stderr);
		return 2;
	}
	/* A partial line is not JSON: a reader of the output must check the exit status. */
	for (; optind < argc; optind++)
		if (map_file(argv[optind], &opt) != 0)
			return 1;
	if (fflush(stdout) != 0 || ferror(stdout)) {
		perror("fscrypt-map: stdout");
		return 1;
	}
	return 0;
}
