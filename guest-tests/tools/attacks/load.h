/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The most and the least work that a driver can make for the device. */

enum { FLOOD_DEPTH = 128, FLOOD_PIECES = 254, FLOOD_PIECE = 28 << 10 };

/* As many of the largest requests as possible, on both request queues at a time. */
static void flood_with(uint32_t type)
{
	const uint16_t flags = type == CRYPTO_IN ? WRITE : 0;
	volatile struct desc *table = (void *)dev.tables.mem;

	for (unsigned i = 0; i < 2; i++) {
		struct queue *q = &dev.queue[i];
		const unsigned first = i * (FLOOD_PIECES + 2);
		struct piece pieces[FLOOD_PIECES + 2];

		/* All requests of a queue share header, data and status. */
		crypto_header(q, 0, type, 0, OWN_SLOT);
		pieces[0] = (struct piece){slot_phys(q, 0), CRYPTO, 0};
		for (unsigned n = 1; n <= FLOOD_PIECES; n++)
			pieces[n] = (struct piece){dev.data.phys + i * (HUGE / 2), FLOOD_PIECE, flags};
		pieces[FLOOD_PIECES + 1] = (struct piece){status_phys(q, 0), 1, WRITE};
		chain(table + first, 0, pieces, FLOOD_PIECES + 2);
		for (unsigned head = 0; head < FLOOD_DEPTH; head++) {
			set(q, head, dev.tables.phys + first * sizeof(struct desc), sizeof(struct desc) * (FLOOD_PIECES + 2),
			    INDIRECT, 0);
			publish(q, head);
		}
		kick(q);
	}
	for (unsigned i = 0; i < 2; i++)
		take_all(&dev.queue[i], FLOOD_DEPTH, NULL);
}

static void flood(void)
{
	snprintf(what, sizeof(what), "a flood");
	for (int round = 0; round < 2; round++) {
		start_with_key(256);
		flood_with(CRYPTO_OUT);
		flood_with(CRYPTO_IN);
	}
}

/*
 * Breaks each queue in another way, and keeps notifying them. Tells the host, which measures the device's CPU time from then
 * on.
 */
static void calm(const char *port)
{
	int fd = open(port, O_WRONLY);
	struct used_elem used;

	snprintf(what, sizeof(what), "calm");
	if (fd < 0)
		fail("%s: %s", port, strerror(errno));
	start_with_key(256);
	for (unsigned i = 0; i < dev.queues; i++) {
		struct queue *q = &dev.queue[i];

		if (i == 1)
			break_ring(q, 6);
		else
			break_chain(q, i ? 20 : 29);
		kick(q);
	}
	for (unsigned i = 0; i < dev.queues; i++) {
		take(&dev.queue[i], &used, 0.1);
		kick(&dev.queue[i]);
	}
	if (write(fd, "calm\n", 5) != 5)
		fail("%s: %s", port, strerror(errno));
	usleep(1500000);
	if (write(fd, "over\n", 5) != 5)
		fail("%s: %s", port, strerror(errno));
	close(fd);
	usleep(300000);
}
