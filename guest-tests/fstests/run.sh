# SPDX-License-Identifier: Apache-2.0 OR MIT
# shellcheck shell=sh
# `cargo xtask fstests` in the guest: finds the disks, makes the file system of the first, runs fstests' `check` and
# copies its output to the port "progress" as it comes. Needs FSTYP, CHECK_ARGUMENTS, TEST_TIMEOUT, and
# JOB and OUT from init.

# add_user NAME ID: a user with a group of its own, as fstests wants them; one name starts with a digit, which useradd
# refuses.
add_user() {
	echo "$1:x:$2:$2::/home/$1:/bin/bash" >> /etc/passwd
	echo "$1:*:20000:0:99999:7:::" >> /etc/shadow
	echo "$1:x:$2:" >> /etc/group
	mkdir -p "/home/$1"
	chown "$2:$2" "/home/$1"
}

# end_after SECONDS: ends this script when the log has not grown for that time. So the host still gets the tests' results, and
# where the kernel's tasks are stuck.
end_after() {
	_size=0 _idle=0
	while [ $_idle -lt "$1" ]; do
		sleep 2
		_idle=$((_idle + 2))
		_old=$_size
		_size=$(wc -c < "$OUT/log")
		[ "$_size" = "$_old" ] || _idle=0
	done
	echo w > /proc/sysrq-trigger
	touch "$OUT/timeout"
	kill -KILL $$
}

# changed FILE: xfstests gets this file of its own as it comes from the standard input; it is on a disk that is read only.
changed() {
	_copy=/tmp/changed/$1
	mkdir -p "${_copy%/*}"
	cat > "$_copy"
	chmod 755 "$_copy"
	mount --bind "$_copy" "/fstests/xfstests/$1"
}

# edited TEST SCRIPT SCRIPT: it gets this test as sed's first script changes it, and what the test must print by the second.
edited() {
	sed "$2" "/fstests/xfstests/tests/$1" | changed "tests/$1"
	sed "$3" "/fstests/xfstests/tests/$1.out" | changed "tests/$1.out"
}

# teach_btrfs: xfstests knows no encryption on btrfs.
teach_btrfs() {
	cat /fstests/xfstests/common/encrypt "$JOB/encrypt-btrfs.sh" | changed common/encrypt
	install -D "$JOB/btrfs-check.sh" /usr/local/sbin/btrfs
	# btrfs takes no v1 policies. These tests are about both versions, one after the other.
	edited generic/580 '/^test_with_policy_version 1$/d' '3,/^$/d'
	edited generic/581 '/^echo "# Setting v1/,/^_user_do "mkdir/d' '3,/^$/d'
	edited generic/593 '/^test_with_policy_version 1$/d' '2,/^# Cleaning up$/d'
}

progress=$(find_port progress)
# The disks come in any order, UFS's some time after their driver.
files=$(find_disk FSTESTS)
find_disk TEST > /dev/null
[ "$DRIVER" != ufshcd ] || find_disk TEST-1 > /dev/null
# What users get, too: contrib/xfstests/local.config.
. "$JOB/local.config"
test=$TEST_DEV
scratch=$SCRATCH_DEV
note "TEST_DEV $test, SCRATCH_DEV $scratch"
for dir in "/sys/block/${test#/dev/}" "/sys/block/${scratch#/dev/}"; do
	[ -d "$dir/queue/crypto" ] || fail "$dir has no inline encryption"
done

add_user fsgqa 1001
add_user fsgqa2 1002
add_user 123456-fsgqa 1003
ln -sf /proc/self/mounts /etc/mtab
echo "127.0.0.1 localhost guest" > /etc/hosts
# Without udev, there are no device nodes whose use would load these modules.
for module in loop dm_mod; do
	modprobe -q "$module" || true
done
mkdir -p /fstests /mnt/test /mnt/scratch "$OUT/results"
mount -o ro "$files" /fstests

case $FSTYP in
ext4) mkfs.ext4 -q -F "$test" ;;
f2fs) mkfs.f2fs -q -f "$test" ;;
btrfs)
	modprobe -q btrfs || true
	mkfs.btrfs -q -f "$test"
	;;
esac
# Report once why tests of encryption cannot run, instead of once by each test.
if [ "$FSTYP" = btrfs ]; then
	mount "$test" /mnt/test
	head -c 64 /dev/urandom | xfs_io -c add_enckey /mnt/test > "$OUT/lacking" 2>&1 && : > "$OUT/lacking"
	umount /mnt/test
	[ -s "$OUT/lacking" ] || teach_btrfs
fi

cp "$JOB/local.config" /tmp/fstests.config
echo "export RESULT_BASE=$OUT/results" >> /tmp/fstests.config
config=/lib/modules/$(uname -r)/config
[ ! -e "$config" ] || echo "export KCONFIG_PATH=$config" >> /tmp/fstests.config

cd /fstests/xfstests || exit 1
end_after "$TEST_TIMEOUT" &
watch=$!
# A session keyring of its own, for the tests that put keys there. check's status says no more than its output does.
# shellcheck disable=SC2086 # several arguments
keyctl session - env -i HOME=/root LC_ALL=C FSTYP="$FSTYP" HOST_OPTIONS=/tmp/fstests.config \
	PATH=/fstests/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	./check $CHECK_ARGUMENTS 2>&1 | tee "$progress"
kill $watch
cd /
umount /mnt/scratch /mnt/test 2> /dev/null || true
