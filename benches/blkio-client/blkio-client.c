// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * A load generator on libblkio's virtio-blk-vhost-user driver: a client of vhost-user-blk devices that shares no code
 * with this project. `cargo xtask bench` builds and runs it. It has the options and the output of benches/load, but only
 * plain requests. It checks every completion, but no data. On any error it exits with status 1 and a message.
 */
#define _GNU_SOURCE
#include <blkio.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The largest queue has room for this many requests in flight. */
#define MAX_DEPTH 128
/* A device that completes nothing for longer is dead. */
#define PATIENCE_S 20

struct job {
	const char *socket;
	bool write, sequential, polling;
	size_t block;
	int depth;
	double seconds, warmup;
	pid_t server;
};

struct load {
	const struct job *job;
	struct blkioq *queue;
	int event;
	char *buffers;
	uint64_t blocks, next, random;
};

static __attribute__((noreturn, format(printf, 1, 2))) void die(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fputs("blkio-client: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

static void check(int result, const char *what)
{
	if (result < 0)
		die("%s: %s (%s)", what, blkio_get_error_msg(), strerror(-result));
}

static double clock_seconds(clockid_t clock)
{
	struct timespec t;
	if (clock_gettime(clock, &t))
		die("cannot read a clock: %s", strerror(errno));
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static double now(void)
{
	return clock_seconds(CLOCK_MONOTONIC);
}

/* CPU seconds of all threads of a process; 0 without one. */
static double cpu_seconds(pid_t pid)
{
	clockid_t clock;
	if (!pid)
		return 0;
	if (clock_getcpuclockid(pid, &clock))
		die("no process %d to measure", (int)pid);
	return clock_seconds(clock);
}

static uint64_t next_block(struct load *load)
{
	if (load->job->sequential) {
		uint64_t block = load->next++;
		if (load->next == load->blocks)
			load->next = 0;
		return block;
	}
	load->random ^= load->random << 13;
	load->random ^= load->random >> 7;
	load->random ^= load->random << 17;
	/* The high half of a product: uniform without a division. */
	return (uint64_t)(((__uint128_t)load->random * load->blocks) >> 64);
}

static void submit(struct load *load, uintptr_t index)
{
	const struct job *job = load->job;
	uint64_t start = next_block(load) * job->block;
	char *buffer = load->buffers + index * job->block;
	if (job->write)
		blkioq_write(load->queue, start, buffer, job->block, (void *)index, 0);
	else
		blkioq_read(load->queue, start, buffer, job->block, (void *)index, 0);
}

/* Submits what is queued and returns at least one completion. `polling` says how it waits. */
static int complete(struct load *load, struct blkio_completion *completions, int max)
{
	int count = blkioq_do_io(load->queue, completions, 0, max, NULL);
	double deadline = 0;
	for (unsigned spins = 1; count == 0; spins++) {
		if (load->job->polling) {
			if (spins % (1 << 20) == 0) {
				if (deadline == 0)
					deadline = now() + PATIENCE_S;
				else if (now() > deadline)
					die("the device has not answered within %d s", PATIENCE_S);
			}
		} else {
			uint64_t events;
			struct pollfd fd = { .fd = load->event, .events = POLLIN };
			ssize_t got = read(load->event, &events, sizeof(events));
			if (got < 0 && errno == EAGAIN) {
				int ready = poll(&fd, 1, PATIENCE_S * 1000);
				if (ready < 0)
					die("poll: %s", strerror(errno));
				if (ready == 0)
					die("the device has not answered within %d s", PATIENCE_S);
				continue;
			}
			if (got != sizeof(events))
				die("read of the completion event: %s", strerror(errno));
		}
		count = blkioq_do_io(load->queue, completions, 0, max, NULL);
	}
	check(count, "blkioq_do_io");
	for (int i = 0; i < count; i++) {
		if (completions[i].ret != 0)
			die("a request failed: %s", strerror(-completions[i].ret));
	}
	return count;
}

static void run(struct load *load)
{
	const struct job *job = load->job;
	struct blkio_completion completions[MAX_DEPTH];
	double start = now(), begin = 0, end = 0, server = 0, client = 0;
	uint64_t requests = 0;

	for (int i = 0; i < job->depth; i++)
		submit(load, i);
	for (;;) {
		int count = complete(load, completions, job->depth);
		double at = now();
		if (begin == 0) {
			if (at - start >= job->warmup) {
				server = cpu_seconds(job->server);
				client = clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
				begin = now();
			}
		} else {
			requests += count;
			if (at - begin >= job->seconds) {
				end = at;
				break;
			}
		}
		for (int i = 0; i < count; i++)
			submit(load, (uintptr_t)completions[i].user_data);
	}
	server = cpu_seconds(job->server) - server;
	client = clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - client;
	printf("{\"requests\":%llu,\"bytes\":%llu,\"seconds\":%.9f,\"server_cpu\":%.9f,\"client_cpu\":%.9f}\n",
	       (unsigned long long)requests, (unsigned long long)requests * job->block, end - begin, server, client);
}

static long number(const char *text, long low, long high, const char *option)
{
	char *rest;
	errno = 0;
	long value = strtol(text, &rest, 10);
	if (errno || *rest || rest == text || value < low || value > high)
		die("--%s is %ld to %ld", option, low, high);
	return value;
}

static double seconds(const char *text, const char *option)
{
	char *rest;
	double value = strtod(text, &rest);
	if (*rest || rest == text || !(value >= 0 && value < 3600))
		die("--%s is a number of seconds", option);
	return value;
}

static struct job parse(int argc, char **argv)
{
	struct job job = { .block = 4096, .depth = 1, .seconds = 1 };
	static const struct option options[] = {
		{ "socket", required_argument, NULL, 's' },  { "operation", required_argument, NULL, 'o' },
		{ "block", required_argument, NULL, 'b' },   { "depth", required_argument, NULL, 'd' },
		{ "seconds", required_argument, NULL, 't' }, { "warmup", required_argument, NULL, 'w' },
		{ "server-pid", required_argument, NULL, 'p' }, { "polling", no_argument, NULL, 'P' },
		{ 0 },
	};
	int option;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 's': job.socket = optarg; break;
		case 'o':
			if (strcmp(optarg, "read") && strcmp(optarg, "write") && strcmp(optarg, "randread") &&
			    strcmp(optarg, "randwrite"))
				die("--operation is read, write, randread or randwrite");
			job.write = strstr(optarg, "write") != NULL;
			job.sequential = strncmp(optarg, "rand", 4) != 0;
			break;
		case 'b': job.block = number(optarg, 512, 1 << 20, "block"); break;
		case 'd': job.depth = number(optarg, 1, MAX_DEPTH, "depth"); break;
		case 't': job.seconds = seconds(optarg, "seconds"); break;
		case 'w': job.warmup = seconds(optarg, "warmup"); break;
		case 'p': job.server = number(optarg, 0, 1L << 30, "server-pid"); break;
		case 'P': job.polling = true; break;
		default: exit(2);
		}
	}
	if (!job.socket || optind != argc)
		die("options: --socket PATH --operation read|write|randread|randwrite --block BYTES --depth N "
		    "--seconds S --warmup S --server-pid PID [--polling]");
	return job;
}

int main(int argc, char **argv)
{
	struct job job = parse(argc, argv);
	struct blkio *blkio;
	struct blkio_mem_region region;
	uint64_t capacity;

	check(blkio_create("virtio-blk-vhost-user", &blkio), "blkio_create");
	check(blkio_set_str(blkio, "path", job.socket), "path");
	check(blkio_connect(blkio), "blkio_connect");
	check(blkio_set_int(blkio, "num-queues", 1), "num-queues");
	check(blkio_get_uint64(blkio, "capacity", &capacity), "capacity");
	check(blkio_start(blkio), "blkio_start");
	size_t bytes = (job.block * job.depth + (2 << 20) - 1) & ~(size_t)((2 << 20) - 1);
	check(blkio_alloc_mem_region(blkio, &region, bytes), "blkio_alloc_mem_region");
	check(blkio_map_mem_region(blkio, &region), "blkio_map_mem_region");
	memset(region.addr, 0x5a, region.len);

	struct load load = {
		.job = &job,
		.queue = blkio_get_queue(blkio, 0),
		.buffers = region.addr,
		.blocks = capacity / job.block,
		.random = 0x9e3779b97f4a7c15,
	};
	if (load.blocks < 1)
		die("a disk of %llu bytes has no block of %zu", (unsigned long long)capacity, job.block);
	load.event = blkioq_get_completion_fd(load.queue);
	blkioq_set_completion_fd_enabled(load.queue, !job.polling);
	run(&load);
	return 0;
}
