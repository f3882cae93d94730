/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Commands: malformed, on the wrong queue, during I/O. */

/* A command that the device must refuse, and how; false: there are no more. */
static int bad_command(struct queue *q, unsigned head, unsigned n, uint8_t *wanted)
{
	const uint32_t slots[] = {8, 4096, 65536, UINT32_MAX}, modes[] = {0, 2, 4, UINT32_MAX};
	const uint32_t sizes[] = {0, 1, 32, 63, 65, 128, 129, UINT32_MAX}, types[] = {0, 2, 3, UINT32_MAX};
	const uint32_t bits[] = {0, 8, 17, 31, 32, 64, UINT32_MAX}, duns[] = {0, 9, 33, UINT32_MAX};
	struct header *h = program_header(q, head, 1);

#define CASE(field, list, status_of) \
	if (n < sizeof(list) / sizeof(*list)) { \
		h->field = list[n]; \
		*wanted = status_of; \
		snprintf(what, sizeof(what), "program with " #field " %#x", list[n]); \
		return 1; \
	} \
	n -= sizeof(list) / sizeof(*list)
	CASE(key_slot, slots, IOERR);
	CASE(mode, modes, UNSUPP);
	CASE(key_size, sizes, IOERR);
	CASE(key_type, types, UNSUPP);
	CASE(bits, bits, UNSUPP);
	CASE(dun_bytes, duns, duns[n] ? UNSUPP : IOERR);
	h->type = EVICT;
	CASE(key_slot, slots, IOERR);
	/* Commands that a device without hardware-wrapped keys does not know. */
	if (n < 4) {
		h->type = DERIVE + n;
		*wanted = UNSUPP;
		snprintf(what, sizeof(what), "command %u", h->type);
		return 1;
	}
	return 0;
}

static void bad_commands(struct queue *q)
{
	const uint32_t cut[] = {PROGRAM, EVICT, DERIVE, IMPORT, PREPARE};
	uint8_t wanted;

	for (unsigned n = 0; bad_command(q, 0, n, &wanted); n++)
		expect(request(q, KEY, data_phys(q, 0), 256, WRITE), wanted);
	for (unsigned t = 0; t < 5; t++) {
		/* EVICT needs only the slot. */
		const unsigned whole = cut[t] == EVICT ? HEADER + 4 : cut[t] == PROGRAM ? KEY : 148;

		for (unsigned len = 0; len < whole; len += 1 + below(5)) {
			snprintf(what, sizeof(what), "command %u: %u bytes", cut[t], len);
			program_header(q, 0, 1)->type = cut[t];
			if (ask(q, (struct piece[]){{slot_phys(q, 0), len, 0}, {status_phys(q, 0), 1, WRITE}}, 2))
				fail("returned with a length");
			expect(status(q, 0), IOERR);
		}
		snprintf(what, sizeof(what), "command %u without a status", cut[t]);
		program_header(q, 0, 1)->type = cut[t];
		if (ask(q, (struct piece[]){{slot_phys(q, 0), KEY, 0}}, 1))
			fail("returned with a length");
	}
	for (unsigned room = 0; room < 9; room++) {
		snprintf(what, sizeof(what), "modes with room for %u bytes", room);
		header(q, 0, GET_MODES, 0);
		expect(request(q, HEADER, data_phys(q, 0), room, WRITE), OK);
	}
	if (!dev.control)
		return;
	for (unsigned t = 0; t < 4; t++) {
		snprintf(what, sizeof(what), "type %u on the control queue", io_types[t]);
		attack_header(q, io_types[t]);
		expect(request(q, CRYPTO, data_phys(q, 0), DATA, 0), UNSUPP);
	}
}

/* Keys come and go; commands on a request queue are unknown, or in-band. */
static int of_any(uint8_t s)
{
	return s == OK || s == NOKEY || s == IOERR || s == UNSUPP;
}

/* Every head of every queue in flight: encrypted I/O, and commands that program and evict its keyslots, or are malformed. */
static void commands_during_io(void)
{
	for (unsigned i = 0; i < dev.queues; i++) {
		struct queue *q = &dev.queue[i];

		for (unsigned head = 0; head < q->size; head++) {
			const uint32_t slot = below(5);
			uint8_t wanted;

			if (i == dev.control ? i > 0 : below(8) == 0) {
				if (below(2))
					program_header(q, head, slot)->type = below(3) ? PROGRAM : EVICT;
				else if (!bad_command(q, head, below(40), &wanted))
					header(q, head, GET_MODES, 0);
				add(q, head, KEY, data_phys(q, head), 256, WRITE);
			} else {
				const int in = below(2);

				crypto_header(q, head, in ? CRYPTO_IN : CRYPTO_OUT, 8 * below(5000), slot);
				add(q, head, CRYPTO, dev.data.phys, below(8) ? DATA : 256 << 10, in ? WRITE : 0);
			}
		}
	}
	snprintf(what, sizeof(what), "commands during I/O");
	for (unsigned i = 0; i < dev.queues; i++)
		kick(&dev.queue[i]);
	for (unsigned i = 0; i < dev.queues; i++) {
		struct queue *q = &dev.queue[i];

		take_all(q, q->size, of_any);
	}
}

/* The device is reset while all of these are in flight. */
static void reset_during_io(void)
{
	snprintf(what, sizeof(what), "a reset during I/O");
	for (unsigned i = 0; i < 2; i++) {
		struct queue *q = &dev.queue[i];

		for (unsigned head = 0; head < q->size; head++) {
			crypto_header(q, head, below(2) ? OUT : CRYPTO_OUT, 8 * below(5000), OWN_SLOT);
			add(q, head, CRYPTO, dev.data.phys, 512 << 10, 0);
		}
		kick(q);
	}
	if (dev.control) {
		struct queue *q = &dev.queue[dev.control];

		for (unsigned head = 0; head < q->size; head++) {
			program_header(q, head, below(8));
			add(q, head, KEY, 0, 0, 0);
		}
		kick(q);
	}
	reset();
}
