// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * key-churn - random requests of 4 KiB to many files, each of which has a key of its own
 *
 * In a directory with a per-file policy of fscrypt, N files have N keys. On a device with fewer keyslots, the kernel must
 * program keys all the time. There is one request at a time, past the page cache, so the time of a request is its cost.
 * Prints JSON: requests, bytes, nanoseconds, and latencies in nanoseconds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define REQUEST 4096
#define MOST_FILES 65536
#define MOST_REQUESTS (8u << 20)

static uint64_t state;

/* splitmix64 */
static uint64_t next_number(void)
{
	uint64_t z = (state += 0x9e3779b97f4a7c15ULL);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int trouble(const char *what)
{
	fprintf(stderr, "key-churn: %s: %s\n", what, strerror(errno));
	return 1;
}

static void name_of(char *name, size_t room, const char *dir, unsigned int number)
{
	snprintf(name, room, "%s/file-%u", dir, number);
}

static int prepare(const char *dir, unsigned int files, size_t bytes)
{
	char *data = malloc(bytes);
	char name[4096];
	int fd;

	if (!data)
		return trouble("memory");
	for (size_t i = 0; i < bytes; i++)
		data[i] = (char)next_number();
	for (unsigned int i = 0; i < files; i++) {
		name_of(name, sizeof(name), dir, i);
		fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes || close(fd) != 0)
			return trouble(name);
	}
	free(data);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || syncfs(fd) != 0 || close(fd) != 0)
		return trouble(dir);
	return 0;
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static int mark(const char *program, const char *when)
{
	char command[4096];

	if (!program)
		return 0;
	snprintf(command, sizeof(command), "%s %s", program, when);
	if (system(command) == 0)
		return 0;
	fprintf(stderr, "key-churn: %s failed\n", command);
	return 1;
}

static int request(int fd, int writing, void *buffer, off_t at)
{
	ssize_t done = writing ? pwrite(fd, buffer, REQUEST, at) : pread(fd, buffer, REQUEST, at);

	if (done >= 0 && done != REQUEST)
		errno = EIO;
	return done == REQUEST ? 0 : trouble(writing ? "write" : "read");
}

static int run(const char *dir, unsigned int files, int writing, uint64_t limit, const char *marker)
{
	struct rlimit most = { files + 64, files + 64 };
	uint64_t start, end, last, sum = 0;
	uint32_t *latency, count = 0;
	uint32_t blocks = 0;
	void *buffer;
	int *fds;

	setrlimit(RLIMIT_NOFILE, &most);
	fds = calloc(files, sizeof(*fds));
	latency = malloc(MOST_REQUESTS * sizeof(*latency));
	if (!fds || !latency || posix_memalign(&buffer, REQUEST, REQUEST) != 0)
		return trouble("memory");
	memset(buffer, 0x5a, REQUEST);
	for (unsigned int i = 0; i < files; i++) {
		char name[4096];
		struct stat st;

		name_of(name, sizeof(name), dir, i);
		fds[i] = open(name, (writing ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC);
		if (fds[i] < 0 || fstat(fds[i], &st) != 0)
			return trouble(name);
		blocks = (uint32_t)(st.st_size / REQUEST);
		/* Use each key once, as in the middle of a long run. */
		if (blocks == 0 || request(fds[i], 0, buffer, 0) != 0)
			return 1;
	}

	if (mark(marker, "begin") != 0)
		return 1;
	start = last = now();
	do {
		uint64_t number = next_number();

		if (request(fds[(number >> 32) % files], writing, buffer, (off_t)((uint32_t)number % blocks) * REQUEST) != 0)
			return 1;
		end = now();
		latency[count++] = end - last > UINT32_MAX ? UINT32_MAX : (uint32_t)(end - last);
		sum += end - last;
		last = end;
	} while (end - start < limit && count < MOST_REQUESTS);
	if (mark(marker, "end") != 0)
		return 1;

	qsort(latency, count, sizeof(*latency), compare);
	printf("{\"requests\":%u,\"bytes\":%llu,\"nanoseconds\":%llu,\"mean\":%llu,\"p50\":%u,\"p95\":%u,\"p99\":%u}\n", count,
	       (unsigned long long)count * REQUEST, (unsigned long long)(end - start), (unsigned long long)(sum / count),
	       latency[count / 2], latency[(uint64_t)count * 95 / 100], latency[(uint64_t)count * 99 / 100]);
	return fflush(stdout) == 0 ? 0 : trouble("stdout");
}

static int usage(void)
{
	fprintf(stderr, "usage: key-churn prepare DIRECTORY FILES BYTES\n"
			"       key-churn run DIRECTORY FILES read|write SECONDS SEED [PROGRAM]\n"
			"PROGRAM is called with the argument begin before the first request and end after the last.\n");
	return 2;
}

int main(int argc, char **argv)
{
	unsigned long files;
	char *end;

	if (argc < 5)
		return usage();
	files = strtoul(argv[3], &end, 10);
	if (*end || files == 0 || files > MOST_FILES)
		return usage();
	if (strcmp(argv[1], "prepare") == 0 && argc == 5) {
		unsigned long bytes = strtoul(argv[4], &end, 10);

		if (*end || bytes == 0)
			return usage();
		return prepare(argv[2], (unsigned int)files, bytes);
	}
	if (strcmp(argv[1], "run") == 0 && (argc == 7 || argc == 8)) {
		double seconds = strtod(argv[5], &end);
		int writing = strcmp(argv[4], "write") == 0;

		if (*end || !(seconds > 0 && seconds < 86400) || (!writing && strcmp(argv[4], "read") != 0))
			return usage();
		state = strtoull(argv[6], &end, 10);
		if (*end)
			return usage();
		return run(argv[2], (unsigned int)files, writing, (uint64_t)(seconds * 1e9), argc == 8 ? argv[7] : NULL);
	}
	return usage();
}
