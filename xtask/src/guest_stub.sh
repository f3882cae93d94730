#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# First process of the guest, the only part of the project inside the disk image: takes the job (a tar archive) from
# the virtio port named "job" and hands over to the init script in it. Changing that script needs no new image.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
give_up() {
	echo "guest: $*"
	echo 1 > /proc/sys/kernel/sysrq
	echo o > /proc/sysrq-trigger
	sleep 10
}
mount -t proc proc /proc
mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mkdir /tmp/job
[ -d /sys/class/virtio-ports ] || modprobe -q virtio_console
port=
tries=0
while [ -z "$port" ] && [ $tries -lt 100 ]; do
	for p in /sys/class/virtio-ports/*; do
		[ "$(cat "$p/name" 2> /dev/null)" = job ] && port=/dev/${p##*/}
	done
	[ -n "$port" ] || sleep 0.1
	tries=$((tries + 1))
done
[ -n "$port" ] || give_up "no virtio port named job"
tar -xf "$port" -C /tmp/job || give_up "the job cannot be unpacked"
exec /bin/sh /tmp/job/init
