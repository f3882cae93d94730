/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What must be true during and after every attack. */

/* A keyslot and sectors that no attack uses. */
enum { OWN_SLOT = 7, SPARE_SLOT = 6, OWN_SECTOR = 400000, SENTINEL_SECTOR = 300000, ONES_SECTOR = 350000 };
enum { ONES_BYTES = 64 << 10 };

/* The queue for commands when queue `attacked` is not to be used. */
static struct queue *commands(unsigned attacked)
{
	return &dev.queue[dev.control ? dev.control : attacked == 0];
}

static void fill(uint8_t *mem, uint64_t number)
{
	uint64_t word;

	for (unsigned i = 0; i < DATA; i += 8) {
		number = number * 6364136223846793005ull + 1442695040888963407ull;
		word = number ^ number >> 29;
		memcpy(mem + i, &word, 8);
	}
}

/* Starts the device with its own key in a slot. */
static void start_with_key(unsigned size)
{
	struct queue *q;

	start(size);
	q = commands(0);
	program_header(q, 0, OWN_SLOT);
	expect(request(q, KEY, 0, 0, 0), OK);
}

/* AES-256-XTS by the kernel, with the key of OWN_SLOT, of a data unit of DATA bytes. */
static void kernel_encrypts(uint64_t dun, const uint8_t *plain, uint8_t *encrypted)
{
	static int kernel;
	struct sockaddr_alg cipher = {.salg_family = AF_ALG, .salg_type = "skcipher", .salg_name = "xts(aes)"};
	struct { uint32_t len; uint64_t number[2]; } __attribute__((packed)) iv = {16, {dun, 0}};
	uint32_t encrypt = ALG_OP_ENCRYPT;
	struct iovec data = {(void *)plain, DATA};
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(encrypt)) + CMSG_SPACE(sizeof(iv))];
	} control = {0};
	struct msghdr msg = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	struct cmsghdr *one = CMSG_FIRSTHDR(&msg);
	uint8_t key[XTS_KEY];

	if (!kernel) {
		int fd = socket(AF_ALG, SOCK_SEQPACKET, 0);

		key_of(OWN_SLOT, key);
		if (fd < 0 || bind(fd, (void *)&cipher, sizeof(cipher)) || setsockopt(fd, SOL_ALG, ALG_SET_KEY, key, sizeof(key)))
			fail("the kernel has no AES-256-XTS to compare with: %s", strerror(errno));
		kernel = accept(fd, NULL, 0);
	}
	*one = (struct cmsghdr){CMSG_LEN(sizeof(encrypt)), SOL_ALG, ALG_SET_OP};
	memcpy(CMSG_DATA(one), &encrypt, sizeof(encrypt));
	one = CMSG_NXTHDR(&msg, one);
	*one = (struct cmsghdr){CMSG_LEN(sizeof(iv)), SOL_ALG, ALG_SET_IV};
	memcpy(CMSG_DATA(one), &iv, sizeof(iv));
	if (sendmsg(kernel, &msg, 0) != DATA || read(kernel, encrypted, DATA) != DATA)
		fail("the kernel does not encrypt: %s", strerror(errno));
}

/* Writes encrypted, and reads both the ciphertext, which must be the kernel's, and the plaintext. */
static void encrypted_io(struct queue *q)
{
	static uint64_t number;
	uint8_t plain[DATA], encrypted[DATA];
	uint64_t sector = OWN_SECTOR + 8 * q->index;

	fill(plain, ++number + seed);
	memcpy(data_mem(q, 0), plain, DATA);
	crypto_header(q, 0, CRYPTO_OUT, sector, OWN_SLOT);
	expect(request(q, CRYPTO, data_phys(q, 0), DATA, 0), OK);
	header(q, 0, IN, sector);
	expect(request(q, HEADER, data_phys(q, 0), DATA, WRITE), OK);
	kernel_encrypts(sector / 8, plain, encrypted);
	if (memcmp(data_mem(q, 0), encrypted, DATA))
		fail("queue %u: what is on the disk is not AES-256-XTS of the data written", q->index);
	crypto_header(q, 0, CRYPTO_IN, sector, OWN_SLOT);
	expect(request(q, CRYPTO, data_phys(q, 0), DATA, WRITE), OK);
	if (memcmp(data_mem(q, 0), plain, DATA))
		fail("queue %u: the data read is not the data written", q->index);
}

/* Checks that all queues but one work. */
static void others_go_on(unsigned attacked)
{
	for (unsigned i = 0; i < 2; i++)
		if (i != attacked)
			encrypted_io(&dev.queue[i]);
	if (dev.control && attacked != dev.control) {
		struct queue *q = &dev.queue[dev.control];

		program_header(q, 0, SPARE_SLOT);
		expect(request(q, KEY, 0, 0, 0), OK);
		header(q, 0, EVICT, 0)->key_slot = SPARE_SLOT;
		expect(request(q, KEY, 0, 0, 0), OK);
	}
}

static int is_ok(uint8_t s)
{
	return s == OK;
}

/* Puts every head of the queue in flight: none was leaked. Twice, to use each entry of the rings. */
static void all_heads_work(struct queue *q)
{
	for (int round = 0; round < 2; round++) {
		for (unsigned head = 0; head < q->size; head++) {
			int command = dev.control && q->index == dev.control;

			header(q, head, command ? GET_MODES : IN, 0);
			add(q, head, HEADER, data_phys(q, head), command ? 8 : 512, WRITE);
		}
		kick(q);
		take_all(q, q->size, is_ok);
	}
}

/* Writes what attacks must not change, and sectors of ones. */
static void write_sentinel(void)
{
	struct queue *q = &dev.queue[1];

	header(q, 0, OUT, SENTINEL_SECTOR);
	fill(data_mem(q, 0), 1);
	expect(request(q, HEADER, data_phys(q, 0), DATA, 0), OK);
	memset(dev.data.mem, 0xff, ONES_BYTES);
	header(q, 0, OUT, ONES_SECTOR);
	expect(request(q, HEADER, dev.data.phys, ONES_BYTES, 0), OK);
}

static void sentinel_is_there(void)
{
	struct queue *q = &dev.queue[1];
	uint8_t plain[DATA];

	header(q, 0, IN, SENTINEL_SECTOR);
	memset(data_mem(q, 0), 0, DATA);
	expect(request(q, HEADER, data_phys(q, 0), DATA, WRITE), OK);
	fill(plain, 1);
	if (memcmp(data_mem(q, 0), plain, DATA))
		fail("a request that failed has written to the disk");
}

/* Checks that the device no longer serves the broken queue, but serves all others. */
static void is_broken(struct queue *q)
{
	struct used_elem used;
	unsigned head = q->size - 1;

	/* Heads that were taken return, with length 0. Meanwhile the device sees the break, before the lines below repair the ring. */
	if (take(q, &used, 0.08) && used.len)
		fail("a broken chain comes back with length %u", used.len);
	header(q, head, IN, 0);
	add(q, head, HEADER, data_phys(q, head), 512, WRITE);
	kick(q);
	if (take(q, &used, 0.03))
		fail("head %u comes back from a broken queue", used.id);
	others_go_on(q->index);
}
