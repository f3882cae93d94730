# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: hardware-wrapped keys are generated, imported and prepared by ioctls of the disk, with every documented error
# device: --key-types raw,wrapped
# stat: wrapped_keys.generate > 0
# stat: wrapped_keys.import > 0
# stat: wrapped_keys.prepare > 0

[ "$(crypto_attr hw_wrapped_keys)" = supported ] || fail "wrapped keys: $(crypto_attr hw_wrapped_keys)"
[ "$(crypto_attr raw_keys)" = supported ] || fail "raw keys: $(crypto_attr raw_keys)"
mkdir /tmp/keys
cd /tmp/keys || exit

# key VERB ARGUMENT...: a key ioctl of the disk.
key() {
	blk-crypto-key "$DISK" "$@"
}

# size FILE
size() {
	stat -c %s "$1"
}

# bytes COUNT: on stdout.
bytes() {
	head -c "$1" /dev/urandom
}

# contains FILE PART: true when the bytes of PART are somewhere in FILE.
contains() {
	od -An -v -tx1 "$1" | tr -d ' \n' | grep -q "$(od -An -v -tx1 "$2" | tr -d ' \n')"
}

note 'generated, imported, prepared: every result is another blob, of a size that the kernel takes, without the key'
key generate one.lt
key generate two.lt
bytes 32 > raw
key import raw raw-1.lt
key import raw raw-2.lt
for name in one two raw-1 raw-2; do
	key prepare $name.lt $name.eph
done
key prepare one.lt one-again.eph
for file in *.lt *.eph; do
	# At least the key, a nonce and a tag; at most what the kernel has room for.
	if [ "$(size "$file")" -lt 60 ] || [ "$(size "$file")" -gt 128 ]; then
		fail "$file has $(size "$file") bytes"
	fi
	if contains "$file" raw; then
		fail "$file contains the raw key"
	fi
done
[ -z "$(sha256sum ./*.lt ./*.eph | cut -d ' ' -f 1 | sort | uniq -d)" ] || fail 'two blobs are the same'

note 'EINVAL: sizes that are none'
for count in 0 1 15 16 31 33 64 65 128; do
	bytes $count > odd
	expect_errno EINVAL key import odd out
done
for count in 0 129 200; do
	bytes $count > odd
	expect_errno EINVAL key prepare odd out
done

note 'EOVERFLOW: less room than the result needs; and just enough is enough'
room=$(size one.lt)
for count in 0 1 $((room - 1)); do
	expect_errno EOVERFLOW blk-crypto-key -s "$count" "$DISK" generate out
	expect_errno EOVERFLOW blk-crypto-key -s "$count" "$DISK" import raw out
done
expect_errno EOVERFLOW blk-crypto-key -s $(($(size one.eph) - 1)) "$DISK" prepare one.lt out
blk-crypto-key -s "$room" "$DISK" generate out
blk-crypto-key -s "$(size one.eph)" "$DISK" prepare one.lt out

note 'EBADMSG: a changed bit anywhere, another length, the other form, noise'
at=0
while [ $at -lt "$room" ]; do
	cp one.lt changed
	byte=$(od -An -tu1 -j $at -N 1 one.lt)
	env printf "$(printf '\\%03o' $((byte ^ 1 << at % 8)))" | dd of=changed bs=1 seek=$at conv=notrunc status=none
	expect_errno EBADMSG key prepare changed out
	at=$((at + 1))
done
head -c $((room - 1)) one.lt > changed
expect_errno EBADMSG key prepare changed out
{ cat one.lt; bytes 1; } > changed
expect_errno EBADMSG key prepare changed out
head -c 1 one.lt > changed
expect_errno EBADMSG key prepare changed out
expect_errno EBADMSG key prepare one.eph out
expect_errno EBADMSG key prepare raw out
head -c "$room" /dev/zero > changed
expect_errno EBADMSG key prepare changed out
bytes 128 > changed
expect_errno EBADMSG key prepare changed out

note 'after all that the keys are still good'
key prepare one.lt out
key prepare raw-1.lt out
