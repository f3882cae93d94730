// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * keys-in-requests [freed]: prints how many requests in the guest's memory have ever carried a key, and how many of these still
 * hold one: "REQUESTS HOLDING".
 *
 * The program recognises a request by its header and its message, which stay when the key is wiped. The key descriptor
 * follows: if any byte of it is not zero, the request holds a key. The memory is read from /proc/kcore.
 *
 * A disk that has gone leaves its requests in freed memory. Whoever uses that next may write over the key and not over the header.
 * So with "freed" only what looks like a descriptor counts: by its slot, which is none, or by the size of its key.
 */
#include <elf.h>
#include <err.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { HEADER = 16, MESSAGE = 40, KEY_SIZE = 132, KEY_DESCRIPTOR = 152, WHOLE = HEADER + MESSAGE + KEY_DESCRIPTOR };

static unsigned char chunk[1 << 20];
static unsigned long requests, holding;
static bool freed;

static uint32_t le32(const unsigned char *at)
{
	return at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24;
}

/* CRYPTO_IN_EXT or CRYPTO_OUT_EXT with a key. Compared in pieces: this program must not find itself. */
static bool is_request(const unsigned char *at)
{
	const unsigned char *message = at + HEADER;

	return (le32(at) | 1) == 0x1ce11 && le32(message) == UINT32_MAX && le32(message + 4) == 0x100;
}

static bool holds_key(const unsigned char *key)
{
	int i;

	if (freed)
		return le32(key) == UINT32_MAX || le32(key + KEY_SIZE) == 64;
	for (i = 0; i < KEY_DESCRIPTOR; i++)
		if (key[i])
			return true;
	return false;
}

static void look_at(const unsigned char *at)
{
	requests++;
	holding += holds_key(at + HEADER + MESSAGE);
}

static void look_through(int kcore, const Elf64_Phdr *segment)
{
	uint64_t done = 0;
	ssize_t size;
	ssize_t i;

	/* The pieces overlap by a request less one word, so that each request is found exactly once. */
	while (done + WHOLE <= segment->p_filesz) {
		uint64_t left = segment->p_filesz - done;

		size = pread(kcore, chunk, left < sizeof(chunk) ? left : sizeof(chunk), segment->p_offset + done);
		if (size < WHOLE)
			return;
		for (i = 0; i + WHOLE <= size; i += 8)
			if (is_request(chunk + i))
				look_at(chunk + i);
		done += i;
	}
}

int main(int argc, char **argv)
{
	int kcore = open("/proc/kcore", O_RDONLY);
	Elf64_Ehdr header;
	Elf64_Phdr segment;
	int i;

	freed = argc > 1 && !strcmp(argv[1], "freed");
	if (kcore < 0 || pread(kcore, &header, sizeof(header), 0) != sizeof(header))
		err(1, "/proc/kcore");
	for (i = 0; i < header.e_phnum; i++) {
		if (pread(kcore, &segment, sizeof(segment), header.e_phoff + i * sizeof(segment)) != sizeof(segment))
			err(1, "/proc/kcore");
		/* Only the direct mapping of memory; other segments have no physical address. */
		if (segment.p_type == PT_LOAD && segment.p_paddr != UINT64_MAX)
			look_through(kcore, &segment);
	}
	memset(chunk, 0, sizeof(chunk));
	printf("%lu %lu\n", requests, holding);
	return 0;
}
