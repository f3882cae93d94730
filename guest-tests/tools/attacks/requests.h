/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Malformed requests in valid rings: the device completes each, and the queue keeps working. */

static const uint32_t io_types[] = {OUT, IN, CRYPTO_OUT, CRYPTO_IN};

/* The header's slot is 0 in the ring, its data a page of the attacker's. */
static struct header *attack_header(struct queue *q, uint32_t type)
{
	struct header *h = crypto_header(q, 0, type, SENTINEL_SECTOR, OWN_SLOT);

	h->unused = below(UINT32_MAX);
	return h;
}

static unsigned header_len(uint32_t type)
{
	return type == CRYPTO_IN || type == CRYPTO_OUT ? CRYPTO : type >= PROGRAM && type <= PREPARE ? KEY : HEADER;
}

/* Headers that end after each of their bytes, in one descriptor and in one for each byte. */
static void cut_headers(struct queue *q)
{
	for (unsigned t = 0; t < 4; t++) {
		const uint16_t flags = io_types[t] == IN || io_types[t] == CRYPTO_IN ? WRITE : 0;
		const unsigned whole = header_len(io_types[t]);
		struct piece pieces[2 * CRYPTO + 3];

		for (unsigned len = 0; len < whole; len++) {
			snprintf(what, sizeof(what), "type %u: %u bytes of a header", io_types[t], len);
			attack_header(q, io_types[t]);
			pieces[0] = (struct piece){slot_phys(q, 0), len, 0};
			pieces[1] = (struct piece){status_phys(q, 0), 1, WRITE};
			if (ask(q, pieces, 2))
				fail("returned with a length");
			expect(status(q, 0), IOERR);
		}
		snprintf(what, sizeof(what), "type %u: a header in descriptors of 1 byte and of none", io_types[t]);
		attack_header(q, io_types[t])->sector = 0;
		for (unsigned i = 0; i < whole; i++) {
			pieces[2 * i] = (struct piece){slot_phys(q, 0) + i, 1, 0};
			pieces[2 * i + 1] = (struct piece){dev.data.phys, 0, 0};
		}
		pieces[2 * whole] = (struct piece){data_phys(q, 0), DATA, flags};
		pieces[2 * whole + 1] = (struct piece){dev.data.phys, 0, WRITE};
		pieces[2 * whole + 2] = (struct piece){status_phys(q, 0), 1, WRITE};
		ask(q, pieces, 2 * whole + 3);
		expect(status(q, 0), OK);
	}
}

/* No room for a status, or room in an unusual place. */
static void lost_statuses(struct queue *q)
{
	const uint64_t h = slot_phys(q, 0), data = data_phys(q, 0), st = status_phys(q, 0);

	for (unsigned t = 0; t < 4; t++) {
		const unsigned len = header_len(io_types[t]);

		snprintf(what, sizeof(what), "type %u: no status, or one that cannot be written", io_types[t]);
		attack_header(q, io_types[t]);
		if (ask(q, (struct piece[]){{h, len, 0}}, 1) ||
		    ask(q, (struct piece[]){{h, len, 0}, {data, DATA, 0}}, 2) ||
		    ask(q, (struct piece[]){{h, len, 0}, {data, DATA, 0}, {st, 1, 0}}, 3) ||
		    ask(q, (struct piece[]){{h, len, 0}, {st, 0, WRITE}}, 2) ||
		    ask(q, (struct piece[]){{h, len, 0}, {data, 0, WRITE}, {st, 0, WRITE}}, 3))
			fail("returned with a length");
		expect(status(q, 0), NOTHING);
		snprintf(what, sizeof(what), "type %u: a status of no bytes behind the data", io_types[t]);
		attack_header(q, io_types[t]);
		data_mem(q, 0)[DATA - 1] = NOTHING;
		ask(q, (struct piece[]){{h, len, 0}, {data, DATA, WRITE}, {st, 0, WRITE}}, 3);
		/* The last byte of the data is the status. The rest is no whole sector, or there is nothing to write. */
		if (io_types[t] == OUT ? data_mem(q, 0)[DATA - 1] == NOTHING : data_mem(q, 0)[DATA - 1] != IOERR)
			fail("status %#x", data_mem(q, 0)[DATA - 1]);
	}
	snprintf(what, sizeof(what), "chains of nothing");
	if (ask(q, (struct piece[]){{data, 0, 0}}, 1) || ask(q, (struct piece[]){{data, 0, WRITE}}, 1) ||
	    ask(q, (struct piece[]){{data, DATA, WRITE}}, 1) || ask(q, (struct piece[]){{0, 0, 0}}, 1))
		fail("returned with a length");
}

/* Sectors, lengths, keyslots and data unit numbers out of range. */
static void out_of_range(struct queue *q)
{
	const uint64_t sectors[] = {dev.sectors - 7, dev.sectors, UINT64_MAX, UINT64_MAX - 7, 1ull << 55, 1ull << 63};
	const uint32_t lengths[] = {1, 15, 511, 513, 4095, 4097};
	struct piece pieces[MAX_SIZE];

	for (unsigned t = 0; t < 4; t++) {
		const uint16_t flags = io_types[t] == IN || io_types[t] == CRYPTO_IN ? WRITE : 0;
		const unsigned len = header_len(io_types[t]);

		for (unsigned i = 0; i < 6; i++) {
			snprintf(what, sizeof(what), "type %u: sector %llx", io_types[t], (unsigned long long)sectors[i]);
			attack_header(q, io_types[t])->sector = sectors[i];
			expect(request(q, len, data_phys(q, 0), DATA, flags), IOERR);
			snprintf(what, sizeof(what), "type %u: %u bytes", io_types[t], lengths[i]);
			attack_header(q, io_types[t]);
			expect(request(q, len, dev.data.phys, lengths[i], flags), IOERR);
		}
		snprintf(what, sizeof(what), "type %u: more bytes than the disk has", io_types[t]);
		attack_header(q, io_types[t])->sector = 0;
		pieces[0] = (struct piece){slot_phys(q, 0), len, 0};
		for (unsigned i = 1; i < q->size - 1; i++)
			pieces[i] = (struct piece){dev.data.phys, HUGE, flags};
		pieces[q->size - 1] = (struct piece){status_phys(q, 0), 1, WRITE};
		if (q->size > dev.sectors * 512 / HUGE) {
			ask(q, pieces, q->size);
			expect(status(q, 0), IOERR);
		}
		if (len == HEADER)
			continue;
		snprintf(what, sizeof(what), "type %u: keyslots and data unit numbers", io_types[t]);
		attack_header(q, io_types[t])->slot = 8;
		expect(request(q, len, data_phys(q, 0), DATA, flags), IOERR);
		attack_header(q, io_types[t])->slot = UINT32_MAX;
		expect(request(q, len, data_phys(q, 0), DATA, flags), IOERR);
		attack_header(q, io_types[t])->slot = 5;
		expect(request(q, len, data_phys(q, 0), DATA, flags), NOKEY);
		attack_header(q, io_types[t])->dun[0] = UINT64_MAX;
		expect(request(q, len, dev.data.phys, 2 * DATA, flags), IOERR);
		for (unsigned i = 1; i < 4; i++) {
			attack_header(q, io_types[t])->dun[i] = 1ull << below(64);
			expect(request(q, len, data_phys(q, 0), DATA, flags), IOERR);
		}
		attack_header(q, io_types[t]);
		expect(request(q, len, 0, 0, 0), IOERR);
	}
}

/* Types that do not exist, or not on this queue; invalid ranges of discards. */
static void other_types(struct queue *q)
{
	const uint32_t types[] = {2, 3, 5, 7, 9, 10, 12, 14, 15, 26, 36, 0x80000000, 0xffffffff};
	const uint32_t range_types[] = {DISCARD, WRITE_ZEROES};
	struct {
		uint64_t sector;
		uint32_t count, flags;
	} *range = (void *)dev.headers.mem;

	for (unsigned i = 0; i < sizeof(types) / sizeof(*types); i++) {
		snprintf(what, sizeof(what), "type %#x", types[i]);
		attack_header(q, types[i]);
		expect(request(q, HEADER, data_phys(q, 0), DATA, below(2) ? WRITE : 0), UNSUPP);
	}
	for (uint32_t type = GET_MODES; dev.control && type <= PREPARE; type++) {
		snprintf(what, sizeof(what), "command %u on a request queue", type);
		program_header(q, 0, OWN_SLOT)->type = type;
		expect(request(q, KEY, data_phys(q, 0), 256, WRITE), UNSUPP);
	}
	for (unsigned t = 0; t < 2; t++) {
		const uint32_t lengths[] = {0, 1, 15, 17, 257 * 16, 1 << 20};

		if (!(dev.features >> (t ? F_WRITE_ZEROES : F_DISCARD) & 1))
			continue;
		for (unsigned i = 0; i < 6; i++) {
			snprintf(what, sizeof(what), "type %u: ranges of %u bytes", range_types[t], lengths[i]);
			memset(dev.headers.mem, 0, HUGE);
			attack_header(q, range_types[t]);
			expect(request(q, HEADER, dev.headers.phys, lengths[i], 0), IOERR);
		}
		for (unsigned i = 0; i < 5; i++) {
			snprintf(what, sizeof(what), "type %u: bad range %u", range_types[t], i);
			range[0].sector = SENTINEL_SECTOR;
			range[0].count = 8;
			range[0].flags = 0;
			range[1] = range[0];
			range[1].sector = i == 0 ? dev.sectors - 7 : i == 1 ? UINT64_MAX : SENTINEL_SECTOR;
			range[1].count = i == 2 ? UINT32_MAX : 8;
			range[1].flags = i == 3 ? 2 : i == 4 ? UINT32_MAX : 0;
			attack_header(q, range_types[t]);
			/* WRITE_ZEROES takes one range at a time. */
			expect(request(q, HEADER, dev.headers.phys + 16 * t, 32 - 16 * t, 0), i < 3 ? IOERR : UNSUPP);
		}
	}
	snprintf(what, sizeof(what), "serial number without room");
	for (unsigned room = 0; room < 20; room++) {
		attack_header(q, GET_ID);
		expect(request(q, HEADER, data_phys(q, 0), room, WRITE), OK);
	}
}

/* Bytes that are header, data and status at once. */
static void overlaps(struct queue *q)
{
	const uint64_t h = slot_phys(q, 0);

	for (unsigned t = 0; t < 4; t++) {
		const unsigned len = header_len(io_types[t]);
		const uint16_t flags = io_types[t] == IN || io_types[t] == CRYPTO_IN ? WRITE : 0;

		for (unsigned at = 0; at < len; at++) {
			snprintf(what, sizeof(what), "type %u: the status is byte %u of the header", io_types[t], at);
			attack_header(q, io_types[t])->sector = 8;
			ask(q, (struct piece[]){{h, len, 0}, {data_phys(q, 0), DATA, flags}, {h + at, 1, WRITE}}, 3);
			if (slot_mem(q, 0)[at])
				fail("status %#x", slot_mem(q, 0)[at]);
		}
		snprintf(what, sizeof(what), "type %u: the data is the header", io_types[t]);
		attack_header(q, io_types[t])->sector = 8;
		expect(request(q, len, h - DATA + 64, DATA, flags), OK);
		snprintf(what, sizeof(what), "type %u: the same data twice", io_types[t]);
		attack_header(q, io_types[t])->sector = 8;
		ask(q, (struct piece[]){{h, len, 0}, {data_phys(q, 0), DATA, flags}, {data_phys(q, 0) + 16, DATA, flags},
					{status_phys(q, 0), 1, WRITE}}, 4);
		expect(status(q, 0), OK);
	}
}
