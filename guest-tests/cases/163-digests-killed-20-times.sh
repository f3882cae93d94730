# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the device is killed and started again 20 times while it returns digests: requests are tried again, and no digest is wrong
# attach: vhost-user-blk
# driver: virtio_blk_crypto in_band=1
# device: --in-band --keyslots 4 --crypto-latency-us 3000
# needs: CONFIG_BLK_CRYPTO_DIGEST_TEST
# kills: 20
# timeout: 900

round=0
begin_kills
while kills_left; do
	round=$((round + 1))
	digest_test "$DISK" crc32c xxhash64 sha256 blake2b-256
done
note "$round rounds"
dmesg_clear
grep -q 'device lost its keys' "$OUT/dmesg-before" || fail 'no key was ever lost'
[ "$(counter nokey_retries)" -gt 0 ] || fail 'no request was tried again'
