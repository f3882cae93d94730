// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * make-data - deterministic file contents that look random, with a text at the start of every 512 bytes
 *
 * By the text, a search can find plaintext anywhere on a disk, for data units of 512 bytes or more. The rest is different in
 * every sector of every file, so that a check notices a misplaced block, or one of another file.
 * The same size, seed and text always give the same bytes.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR 512

static uint64_t state;

/* splitmix64: every output differs, whatever the seed */
static uint64_t next_number(void)
{
	uint64_t z = (state += 0x9e3779b97f4a7c15ULL);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static int parse(const char *text, const char *what, uint64_t *value)
{
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 0);
	if (errno || end == text || *end) {
		fprintf(stderr, "make-data: %s: not a number: %s\n", what, text);
		return -1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	uint8_t sector[SECTOR];
	uint64_t size, seed;
	size_t text_len;

	if (argc < 3 || argc > 4) {
		fprintf(stderr, "usage: make-data SIZE SEED [TEXT]    (writes SIZE bytes to stdout)\n");
		return 2;
	}
	if (parse(argv[1], "SIZE", &size) != 0 || parse(argv[2], "SEED", &seed) != 0)
		return 2;
	text_len = argc == 4 ? strlen(argv[3]) : 0;
	if (text_len > SECTOR / 2) {
		fprintf(stderr, "make-data: TEXT is longer than %d bytes\n", SECTOR / 2);
		return 2;
	}
	/* Seeds 1, 2, 3 ... must not give the same stream shifted by one number. */
	state = seed * 0xd1342543de82ef95ULL;
	state = next_number();

	while (size > 0) {
		size_t n = size < SECTOR ? size : SECTOR;

		for (size_t i = 0; i < SECTOR; i += 8) {
			uint64_t v = next_number();

			memcpy(sector + i, &v, 8);
		}
		if (text_len)
			memcpy(sector, argv[3], text_len);
		if (fwrite(sector, 1, n, stdout) != n) {
			perror("make-data: stdout");
			return 1;
		}
		size -= n;
	}
	if (fflush(stdout) != 0) {
		perror("make-data: stdout");
		return 1;
	}
	return 0;
}
