/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Requests in rings, well-formed or not. */

enum {
	IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11, WRITE_ZEROES = 13, CRYPTO_OUT = 27, CRYPTO_IN = 28,
	GET_MODES = 29, PROGRAM = 30, EVICT = 31, DERIVE = 32, GENERATE = 33, IMPORT = 34, PREPARE = 35,
	CHARACTERISTICS = 0x1ce00
};
enum { OK = 0, IOERR = 1, UNSUPP = 2, NOKEY = 0xe0, NOTHING = 0xee };

/* Bytes of a header, of one with a crypto message, and of one with a key descriptor. */
enum { HEADER = 16, CRYPTO = 56, KEY = 168 };

struct header {
	uint32_t type, ioprio;
	uint64_t sector;
	union {
		struct {
			uint32_t slot, unused;
			uint64_t dun[4];
		};
		struct {
			uint32_t key_slot;
			uint8_t key[128];
			uint32_t key_size, mode, key_type, bits, dun_bytes;
		};
		uint8_t bytes[SLOT - HEADER - 1];
	};
};

struct piece {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
};

static void write_desc(volatile struct desc *at, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	at->addr = addr;
	at->len = len;
	at->flags = flags;
	at->next = next;
}

static void set(struct queue *q, unsigned index, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	write_desc(&q->desc[index], addr, len, flags, next);
}

/* Puts pieces into a table, from an index on, as one chain. */
static void chain(volatile struct desc *table, unsigned from, const struct piece *pieces, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		write_desc(&table[from + i], pieces[i].addr, pieces[i].len, pieces[i].flags | (i + 1 < count ? NEXT : 0),
			   i + 1 < count ? from + i + 1 : 0);
}

/* Makes a head available, without notifying. */
static void publish(struct queue *q, uint16_t head)
{
	q->avail[2 + q->next_avail % q->size] = head;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	q->avail[1] = ++q->next_avail;
}

static void kick(struct queue *q)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	*q->notify = q->index;
}

static uint8_t *slot_mem(struct queue *q, unsigned head)
{
	return q->page.mem + SLOTS_AT + head * SLOT;
}

static uint64_t slot_phys(struct queue *q, unsigned head)
{
	return q->page.phys + SLOTS_AT + head * SLOT;
}

static uint64_t status_phys(struct queue *q, unsigned head)
{
	return slot_phys(q, head) + STATUS_AT;
}

static uint8_t status(struct queue *q, unsigned head)
{
	return slot_mem(q, head)[STATUS_AT];
}

static uint8_t *data_mem(struct queue *q, unsigned head)
{
	return q->page.mem + DATA_AT + head % 256 * DATA;
}

static uint64_t data_phys(struct queue *q, unsigned head)
{
	return q->page.phys + DATA_AT + head % 256 * DATA;
}

/* An empty header in a head's slot, and a status that the device has not written. */
static struct header *header(struct queue *q, unsigned head, uint32_t type, uint64_t sector)
{
	struct header *h = (void *)slot_mem(q, head);

	memset(h, 0, SLOT);
	h->type = type;
	h->sector = sector;
	slot_mem(q, head)[STATUS_AT] = NOTHING;
	return h;
}

static struct header *crypto_header(struct queue *q, unsigned head, uint32_t type, uint64_t sector, uint32_t slot)
{
	struct header *h = header(q, head, type, sector);

	h->slot = slot;
	h->dun[0] = sector / 8;
	return h;
}

enum { XTS_KEY = 64 };

/* The key of a slot, made from its number. */
static void key_of(uint32_t slot, uint8_t *key)
{
	for (int i = 0; i < XTS_KEY; i++)
		key[i] = 3 * i + 17 * slot;
}

/* A good command: the slot's key, with data units of 4096. */
static struct header *program_header(struct queue *q, unsigned head, uint32_t slot)
{
	struct header *h = header(q, head, PROGRAM, 0);

	h->key_slot = slot;
	key_of(slot, h->key);
	h->key_size = XTS_KEY;
	h->mode = h->key_type = 1;
	h->bits = 12;
	h->dun_bytes = 8;
	return h;
}

/* Takes a completed head and its length. False: none came in time. */
static int take(struct queue *q, struct used_elem *used, double seconds)
{
	double end = now() + seconds;

	while (__atomic_load_n(&q->used[1], __ATOMIC_ACQUIRE) == q->next_used)
		if (now() > end)
			return 0;
	*used = ((struct used_elem *)(q->page.mem + USED_AT + 4))[q->next_used % q->size];
	q->next_used++;
	return 1;
}

/* Waits for this head and returns its length. */
static uint32_t wait_for(struct queue *q, unsigned head)
{
	struct used_elem used;

	if (!take(q, &used, 20))
		fail("queue %u: head %u does not come back", q->index, head);
	if (used.id != head)
		fail("queue %u: head %u comes back, not %u", q->index, used.id, head);
	return used.len;
}

/* One chain of these pieces, with descriptors from 0 on; waits for it. */
static uint32_t ask(struct queue *q, const struct piece *pieces, unsigned count)
{
	chain(q->desc, 0, pieces, count);
	publish(q, 0);
	kick(q);
	return wait_for(q, 0);
}

/* A request of the header in slot 0, with data or without; waits for its status. */
static uint8_t request(struct queue *q, unsigned header_len, uint64_t data, uint32_t len, uint16_t flags)
{
	struct piece pieces[3] = {{slot_phys(q, 0), header_len, 0}};
	unsigned count = 1;

	if (len)
		pieces[count++] = (struct piece){data, len, flags};
	pieces[count++] = (struct piece){status_phys(q, 0), 1, WRITE};
	ask(q, pieces, count);
	return status(q, 0);
}

static void expect(uint8_t found, uint8_t wanted)
{
	if (found != wanted)
		fail("status %#x, expected %#x", found, wanted);
}

/* Adds a request whose descriptors are in an indirect table of the head's own, so that each head can be in flight. */
static void add(struct queue *q, unsigned head, unsigned header_len, uint64_t data, uint32_t len, uint16_t flags)
{
	volatile struct desc *table = (void *)(q->page.mem + TABLES_AT + head * TABLE);
	struct piece pieces[3] = {{slot_phys(q, head), header_len, 0}};
	unsigned count = 1;

	if (len)
		pieces[count++] = (struct piece){data, len, flags};
	pieces[count++] = (struct piece){status_phys(q, head), 1, WRITE};
	chain(table, 0, pieces, count);
	set(q, head, q->page.phys + TABLES_AT + head * TABLE, count * 16, INDIRECT, 0);
	publish(q, head);
}

/* Takes this many heads. Each must return once, with a status that `good` accepts. */
static void take_all(struct queue *q, unsigned count, int (*good)(uint8_t))
{
	uint8_t seen[MAX_SIZE] = {0};
	struct used_elem used;

	for (unsigned i = 0; i < count; i++) {
		if (!take(q, &used, 20))
			fail("queue %u: %u of %u requests come back", q->index, i, count);
		if (used.id >= q->size || seen[used.id]++)
			fail("queue %u: head %u comes back again", q->index, used.id);
		if (good && !good(status(q, used.id)))
			fail("queue %u: status %#x", q->index, status(q, used.id));
	}
}
