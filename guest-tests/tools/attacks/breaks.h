/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Rings and chains that break the rules of virtio. Each makes the device stop the queue. */

/* Fills a table for attacks: `count` entries of one readable byte, each with the next; the last one names `last`, or none. */
static uint64_t table(unsigned count, int last)
{
	volatile struct desc *t = (void *)dev.tables.mem;

	for (unsigned i = 0; i + 1 < count; i++)
		write_desc(&t[i], dev.data.phys, 1, NEXT, i + 1);
	write_desc(&t[count - 1], dev.data.phys, 1, last >= 0 ? NEXT : 0, last);
	return dev.tables.phys;
}

/* Reads ones to an address, and waits for the completion. */
static void read_ones_to(struct queue *q, uint64_t addr, uint32_t len)
{
	header(q, 0, IN, ONES_SECTOR);
	expect(request(q, HEADER, addr, len, WRITE), OK);
}

#define ONE(text, addr, len, flags, next) \
	do { \
		set(q, 3, addr, len, flags, next); \
		publish(q, 3); \
		return text; \
	} while (0)

/* A chain of one descriptor, or two. NULL: there are no more. */
static const char *break_chain(struct queue *q, unsigned n)
{
	const uint64_t mine = dev.data.phys, beyond = 0x1000000000, hole = registers();

	switch (n) {
	case 0: ONE("a descriptor that is its own next", mine, 16, NEXT, 3);
	case 1: ONE("next is the ring's size", mine, 16, NEXT, q->size);
	case 2: ONE("next is 65535", mine, 16, NEXT, 65535);
	case 3: ONE("address beyond memory", beyond, 16, 0, 0);
	case 4: ONE("address beyond memory, writable", beyond, 16, WRITE, 0);
	case 5: ONE("address wraps", UINT64_MAX - 7, 16, 0, 0);
	case 6: ONE("address wraps, writable", UINT64_MAX, 0xffffffff, WRITE, 0);
	case 7: ONE("the device's own registers", hole, 16, 0, 0);
	case 8: ONE("the device's own registers, writable", hole, 16, WRITE, 0);
	case 9: ONE("from memory across the hole", mine, 0xf0000000, WRITE, 0);
	case 10: ONE("the interrupt controller", 0xfee00000, 4, WRITE, 0);
	case 11: ONE("4 GiB less one", mine, 0xffffffff, 0, 0);
	case 12: ONE("an empty table", mine, 0, INDIRECT, 0);
	case 13: ONE("a table of 15 bytes", table(1, -1), 15, INDIRECT, 0);
	case 14: ONE("a table of 17 bytes", table(1, -1), 17, INDIRECT, 0);
	case 15: ONE("a table of 65536 entries", table(4, 0), 65536 * 16, INDIRECT, 0);
	case 16: ONE("a table of 4 GiB less 16", table(4, 0), 0xfffffff0, INDIRECT, 0);
	case 17: ONE("a table beyond memory", beyond, 64, INDIRECT, 0);
	case 18: ONE("a table that wraps", UINT64_MAX - 15, 64, INDIRECT, 0);
	case 19: ONE("a table in the device's registers", hole, 64, INDIRECT, 0);
	case 20: ONE("a table with a loop", table(4, 0), 64, INDIRECT, 0);
	case 21: ONE("a table whose last entry names one behind it", table(4, 4), 64, INDIRECT, 0);
	case 22: ONE("a table whose last entry names 65535", table(4, 65535), 64, INDIRECT, 0);
	case 23: ONE("a table longer than the queue", table(300, -1), 300 * 16, INDIRECT, 0);
	case 24: ONE("a table with a loop of 1000", table(1000, 0), 1000 * 16, INDIRECT, 0);
	case 25:
		table(2, -1);
		write_desc((void *)(dev.tables.mem + 4096), dev.tables.phys, 32, INDIRECT, 0);
		ONE("a table in a table", dev.tables.phys + 4096, 16, INDIRECT, 0);
	case 26:
		write_desc((void *)dev.tables.mem, dev.tables.phys, 16, INDIRECT, 0);
		ONE("a table that is in itself", dev.tables.phys, 16, INDIRECT, 0);
	case 27:
		set(q, 0, mine, 1, NEXT, 3);
		ONE("the ring as a table, with the head in it", q->page.phys, q->size * 16, INDIRECT, 0);
	case 28:
		set(q, 4, mine, 16, 0, 0);
		ONE("readable after writable", mine, 16, WRITE | NEXT, 4);
	case 29:
		set(q, 4, mine, 16, NEXT, 3);
		ONE("two descriptors in a loop", mine, 16, NEXT, 4);
	case 30:
		for (unsigned i = 0; i < q->size; i++)
			set(q, i, mine, 0, NEXT, (i + 1) % q->size);
		publish(q, 3);
		return "a loop through the whole ring, with no bytes";
	case 31:
		/* 4 GiB and more in a chain. */
		for (unsigned i = 0; i < 15; i++)
			set(q, i, mine, 300u << 20, NEXT, i + 1);
		set(q, 15, mine, 300u << 20, 0, 0);
		publish(q, 0);
		return "4.7 GB in a chain";
	case 32:
		set(q, 4, table(4, -1), 64, INDIRECT, 0);
		write_desc((void *)dev.tables.mem, mine, 16, WRITE | NEXT, 1);
		ONE("a table after a descriptor, with readable after writable", mine, 16, NEXT, 4);
	}
	return NULL;
}

/* Makes head 0 available this many times with one store of the index; it is served once. */
static void again_and_again(struct queue *q, unsigned times)
{
	for (unsigned i = 0; i < times; i++)
		q->avail[2 + (q->next_avail + i) % q->size] = 0;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	q->avail[1] = q->next_avail += times;
	kick(q);
	wait_for(q, 0);
}

/* Attacks on the rings themselves. */
static const char *break_ring(struct queue *q, unsigned n)
{
	static const uint16_t heads[] = {0, 1, 1000, 32768, 65535};

	switch (n) {
	case 0: case 1: case 2: case 3: case 4:
		publish(q, n < 2 ? q->size + heads[n] : heads[n]);
		return "a head that does not exist";
	case 5:
		q->avail[1] = q->next_avail += q->size + 1;
		return "an available index that jumps by the ring's size and one";
	case 6:
		q->avail[1] = q->next_avail += 32768;
		return "an available index that jumps by 32768";
	case 7:
		q->avail[1] = --q->next_avail;
		return "an available index that goes back";
	case 8:
		header(q, 0, GET_ID, 0);
		chain(q->desc, 0, (struct piece[]){{slot_phys(q, 0), HEADER, 0}, {status_phys(q, 0), 1, WRITE}}, 2);
		again_and_again(q, 2);
		return "a head made available twice";
	case 9:
		header(q, 0, GET_ID, 0);
		chain(q->desc, 0, (struct piece[]){{slot_phys(q, 0), HEADER, 0}, {status_phys(q, 0), 1, WRITE}}, 2);
		again_and_again(q, q->size);
		return "a head made available as often as the ring has entries";
	}
	if (dev.control && q->index == dev.control)
		return NULL;
	switch (n) {
	case 10:
		read_ones_to(q, q->page.phys, 512);
		publish(q, 1);
		return "the disk's data over the descriptors";
	case 11:
		header(q, 0, IN, ONES_SECTOR);
		chain(q->desc, 0, (struct piece[]){{slot_phys(q, 0), HEADER, 0}, {q->page.phys + AVAIL_AT, 512, WRITE},
						   {status_phys(q, 0), 1, WRITE}}, 3);
		publish(q, 0);
		kick(q);
		wait_for(q, 0);
		return "the disk's data over the available ring";
	case 12:
		header(q, 0, FLUSH, 0);
		chain(q->desc, 0, (struct piece[]){{slot_phys(q, 0), HEADER, 0}, {q->page.phys + AVAIL_AT + 2, 1, WRITE}}, 2);
		publish(q, 0);
		kick(q);
		wait_for(q, 0);
		return "the status in the available index";
	}
	return NULL;
}

static unsigned break_all(const char *(*attack)(struct queue *, unsigned), unsigned queue)
{
	static const unsigned sizes[] = {256, 64, 16};
	unsigned count = 0;

	for (unsigned n = 0;; n++) {
		struct queue *q = &dev.queue[queue];
		const char *name;

		snprintf(what, sizeof(what), "queue %u, attack %u", queue, n);
		start_with_key(sizes[below(3)]);
		name = attack(q, n);
		if (!name)
			return count;
		snprintf(what, sizeof(what), "queue %u of %u: %s", queue, q->size, name);
		kick(q);
		is_broken(q);
		count++;
	}
}
