# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: broken hardware, and the kernel's test catches it: one digest in a hundred has a wrong bit
# device: --fault wrong-digest=100
# needs: CONFIG_BLK_CRYPTO_DIGEST_TEST
# stat: events.fault > 0
# stat: digests.crc32c > 0

dmesg_clear
if echo "$DISK" > /sys/module/blk_crypto_digest_test/parameters/run; then
	fail 'the wrong digests were not noticed'
fi
dmesg_has 'crc32c, 512-byte data units, whole, written by fallback, read by hardware: wrong digests' || {
	dmesg | tail -n 5
	fail 'the kernel does not say what is wrong'
}
