// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * hostile - a driver for a block device that does all that a driver must not do
 *
 *     hostile PCI-DEVICE SEED ATTACK...
 *
 * It needs a device without a driver, 6 huge pages, and root. After each attack it checks the device: the other
 * queues work, the attacked queue has stopped or works with all of its heads, and after a reset everything works. The first
 * failed check ends the program. Attacks: rings, requests, commands, races, flood. calm PORT breaks all queues, and
 * reports on the port when the device should be idle.
 */
#include "attacks/device.h"
#include "attacks/ring.h"
#include "attacks/checks.h"
#include "attacks/breaks.h"
#include "attacks/requests.h"
#include "attacks/commands.h"
#include "attacks/races.h"
#include "attacks/load.h"

static void rings(void)
{
	unsigned count = break_all(break_chain, 0) + break_all(break_ring, 0);

	if (dev.control)
		count += break_all(break_chain, dev.control) + break_all(break_ring, dev.control);
	printf("%u queues broken\n", count);
}

static void requests(void)
{
	static void (*const attacks[])(struct queue *) = {cut_headers, lost_statuses, out_of_range, other_types, overlaps};
	struct queue *q = &dev.queue[0];

	for (unsigned i = 0; i < 5; i++) {
		start_with_key(256);
		attacks[i](q);
		all_heads_work(q);
		others_go_on(0);
		sentinel_is_there();
		encrypted_io(q);
	}
}

static void commands_too(void)
{
	struct queue *q;

	start_with_key(256);
	q = commands(1);
	bad_commands(q);
	all_heads_work(q);
	others_go_on(q->index);
	for (int round = 0; round < 50; round++) {
		start_with_key(below(2) ? 256 : 16);
		commands_during_io();
		for (unsigned i = 0; i < dev.queues; i++)
			all_heads_work(&dev.queue[i]);
		others_go_on(MAX_QUEUES);
		reset_during_io();
	}
}

static void all_races(void)
{
	race(0, 5);
	if (dev.control)
		race(dev.control, 2);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} attacks[] = {{"rings", rings}, {"requests", requests}, {"commands", commands_too}, {"races", all_races}, {"flood", flood}};

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc < 3)
		fail("usage: hostile PCI-DEVICE SEED ATTACK...");
	seed = strtoull(argv[2], NULL, 0);
	random_state = seed | 1;
	printf("seed %llu\n", (unsigned long long)seed);
	open_device(argv[1]);
	start_with_key(256);
	write_sentinel();
	for (int i = 3; i < argc; i++) {
		double begin = now();

		if (!strcmp(argv[i], "calm") && i + 1 < argc) {
			calm(argv[++i]);
			continue;
		}
		unsigned a = 0;

		while (a < sizeof(attacks) / sizeof(*attacks) && strcmp(argv[i], attacks[a].name))
			a++;
		if (a == sizeof(attacks) / sizeof(*attacks))
			fail("there is no attack %s", argv[i]);
		attacks[a].run();
		snprintf(what, sizeof(what), "after %s", argv[i]);
		start_with_key(256);
		for (unsigned n = 0; n < dev.queues; n++)
			all_heads_work(&dev.queue[n]);
		others_go_on(MAX_QUEUES);
		sentinel_is_there();
		printf("%s: %.1f s\n", argv[i], now() - begin);
	}
	reset();
	return 0;
}
