# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a read-only device can be read but not written
# device: --read-only
# stat: requests.crypto_out == 0
# stat: bytes.out == 0

[ "$(cat "$BLOCK/ro")" = 1 ] || fail 'the disk is not marked read-only'
[ "$(blockdev --getro "$DISK")" = 1 ] || fail 'blockdev says the disk can be written'
cmp -n $((1 << 20)) /dev/zero "$DISK" || fail 'a fresh image is not zero'
expect_failure 'writing' dd if=/dev/zero of="$DISK" bs=4096 count=1 oflag=direct conv=notrunc
