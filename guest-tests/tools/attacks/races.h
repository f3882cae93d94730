/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A second thread rewrites rings, tables and headers all the time, while the device uses them.
 *
 * The device really reads and writes the addresses that it gets, so no combination of the pieces may hit memory of the
 * guest's kernel:
 * - lengths end in the page in which they begin, or beyond all memory;
 * - a descriptor that names a table always does, and no other one names the tables or the ring: the device never
 *   takes data for descriptors;
 * - numbers in headers are small or huge: wherever a header is cut, they are not the sectors that the checks use.
 */

static volatile int racing;
static unsigned raced; /* the queue */
static uint64_t races;

/* Most values are valid, so that a queue works for a while. */
static int seldom(void)
{
	return below(400) == 0;
}

static uint32_t race_len(void)
{
	const uint32_t lengths[] = {0, 1, 1, 15, 16, 16, 56, 56, 168, 512, 512, 513, 4096, 4096, 4097, 65536};

	return seldom() ? 0xf0000000 + below(0x0fffffff) : lengths[below(16)];
}

/*
 * Of each eight descriptors, the first four are readable, three are writable, and the last one names a table. A descriptor's
 * next one is always of the same eight.
 */
static uint16_t race_flags(unsigned place)
{
	return ((place < 6 ? below(3) > 0 : seldom()) ? NEXT : 0) | ((place > 3 && place < 7) ^ seldom() ? WRITE : 0) |
		(below(2) ? 0x4000 : 0);
}

static uint16_t race_next(unsigned index)
{
	const unsigned place = index % 8;

	return seldom() ? below(65536) : place < 6 ? index + 1 + below(6 - place) : index;
}

static uint64_t race_addr(void)
{
	if (seldom())
		return below(3) == 0 ? registers() : below(2) ? UINT64_MAX - below(4096) : 0x1000000000;
	return below(2) ? dev.data.phys + below(256) * 4096 : dev.headers.phys + below(64) * 256;
}

static void race_header(struct header *h)
{
	const uint32_t io[] = {IN, OUT, FLUSH, GET_ID, CRYPTO_OUT, CRYPTO_IN, 77, GET_MODES, EVICT};
	const uint32_t slots[] = {0, 1, 2, 3, 4, 5, 8, UINT32_MAX};

	h->type = raced == dev.control && raced ? GET_MODES + below(8) : io[below(9)];
	h->ioprio = UINT32_MAX;
	h->sector = below(8) ? below(256) : UINT64_MAX - below(16);
	h->slot = slots[below(8)];
	h->dun[0] = below(4);
}

static int names_table(unsigned index)
{
	return index % 8 == 7;
}

static void race_desc(volatile struct desc *d, unsigned index, int indirect)
{
	switch (below(4)) {
	case 0: d->addr = indirect ? dev.tables.phys + below(16) * 4096 : race_addr(); break;
	case 1: d->len = indirect ? (7 + below(16)) * 16 + seldom() : race_len(); break;
	case 2: d->flags = race_flags(index % 8) | (indirect ? INDIRECT : 0); break;
	case 3: d->next = race_next(index); break;
	}
}

static void *rewrite(void *unused)
{
	(void)unused;
	random_state = seed ^ 0x9e3779b97f4a7c15;
	while (racing) {
		struct queue *q = &dev.queue[raced];

		for (int i = 0; i < 64; i++) {
			unsigned index = below(q->size), table = below(16), entry = below(7);

			switch (below(4)) {
			case 0: race_header((void *)(dev.headers.mem + below(64) * 256)); break;
			case 1: race_desc(&q->desc[index], index, names_table(index)); break;
			case 2: race_desc((void *)(dev.tables.mem + table * 4096 + entry * 16), entry, 0); break;
			case 3: if (seldom() && seldom()) q->avail[2 + index] = below(2) ? index : below(65536); break;
			}
		}
		races += 64;
	}
	return NULL;
}

/* Initial contents, most of them valid. */
static void sow(struct queue *q)
{
	for (unsigned i = 0; i < q->size; i++) {
		if (names_table(i))
			set(q, i, dev.tables.phys + below(16) * 4096, 7 * 16, INDIRECT, 0);
		else
			set(q, i, dev.headers.phys + below(64) * 256, 16 + 40 * below(2), race_flags(i % 8), race_next(i));
	}
	for (unsigned t = 0; t < 16; t++)
		for (unsigned i = 0; i < 7; i++)
			write_desc((void *)(dev.tables.mem + t * 4096 + i * 16), race_addr(), race_len(), race_flags(i), race_next(i));
	for (unsigned i = 0; i < 64; i++)
		race_header((void *)(dev.headers.mem + i * 256));
}

/* Makes heads available in random order as long as the queue works. Returns how many were completed. */
static unsigned harvest(struct queue *q, double seconds)
{
	double end = now() + seconds, last = now();
	uint8_t in_flight[MAX_SIZE] = {0};
	struct used_elem used;
	unsigned count = 0;

	while (now() < end && now() < last + 0.05) {
		for (unsigned i = below(16); i < 16; i++) {
			unsigned head = below(q->size);

			if (in_flight[head] && !(seldom() && seldom()))
				continue;
			in_flight[head] = 1;
			publish(q, head);
		}
		if (below(2000) == 0)
			q->avail[1] = q->next_avail += below(65536);
		kick(q);
		while (take(q, &used, 0.0005)) {
			if (used.id >= q->size)
				fail("head %u comes back", used.id);
			in_flight[used.id] = 0;
			last = now();
			count++;
		}
	}
	return count;
}

/* Races on a queue for this long. The others must work meanwhile, and this one after a reset. */
static void race(unsigned queue, double seconds)
{
	double end = now() + seconds;
	unsigned rounds = 0, served = 0;
	pthread_t thread;

	snprintf(what, sizeof(what), "races on queue %u", queue);
	raced = queue;
	for (; now() < end; rounds++) {
		start_with_key(below(2) ? 256 : 64);
		memset(dev.headers.mem, 0, HUGE);
		memset(dev.tables.mem, 0, HUGE);
		sow(&dev.queue[queue]);
		racing = 1;
		if (pthread_create(&thread, NULL, rewrite, NULL))
			fail("no thread");
		served += harvest(&dev.queue[queue], 0.3);
		others_go_on(queue);
		racing = 0;
		pthread_join(thread, NULL);
	}
	if (!served)
		fail("nothing was ever served");
	printf("queue %u: %u rounds, %u heads returned\n", queue, rounds, served);
}
