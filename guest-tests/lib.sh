# SPDX-License-Identifier: Apache-2.0 OR MIT
# shellcheck shell=sh
# Functions for guest cases. Sourced before each case; needs JOB, OUT and DISK from init.

# fail TEXT...: ends the case as failed.
fail() {
	echo "FAIL: $*"
	exit 1
}

# skip REASON...: ends the case as skipped.
skip() {
	echo "$*" > "$OUT/skip"
	exit 77
}

# note TEXT...: a line for the log.
note() {
	echo "== $*"
}

# kernel_has FUNCTION: true when the kernel has this function, or does not say.
kernel_has() {
	[ ! -e /proc/kallsyms ] || grep -Eq " $1([.[:space:]]|\$)" /proc/kallsyms
}

# find_port NAME: prints the device of a virtio port.
find_port() {
	for _p in /sys/class/virtio-ports/*; do
		[ "$(cat "$_p/name")" != "$1" ] || echo "/dev/${_p##*/}"
	done
}

# serial_of DISK: prints the serial number of a directory in /sys/block. SCSI has it in a page of vital product data.
serial_of() {
	cat "$1/serial" 2> /dev/null || tail -c +5 "$1/device/vpd_pg80" 2> /dev/null
}

# find_disk SERIAL: prints the disk with this serial number, waiting for it.
find_disk() {
	_tries=0
	while [ $_tries -lt 100 ]; do
		for _d in /sys/block/[vs]d*; do
			if [ "$(serial_of "$_d")" = "$1" ] && [ -b "/dev/${_d##*/}" ]; then
				echo "/dev/${_d##*/}"
				return
			fi
		done
		sleep 0.1
		_tries=$((_tries + 1))
	done
	echo "no disk has the serial number $1" >&2
	return 1
}

# wait_for_disk [PRESENT]: waits until DISK is there (yes, the default) or gone (no).
wait_for_disk() {
	_tries=0
	while [ $_tries -lt 100 ]; do
		case ${1:-yes} in
		yes) [ ! -b "$DISK" ] || return 0 ;;
		no) [ -b "$DISK" ] || return 0 ;;
		esac
		sleep 0.1
		_tries=$((_tries + 1))
	done
	echo "$DISK: not $([ "${1:-yes}" = yes ] && echo there || echo gone) after 10 s"
	return 1
}

# unbind_driver NAME: unbinds the driver from all its disks.
unbind_driver() {
	for _d in "/sys/bus/virtio/drivers/$1/virtio"*; do
		[ ! -e "$_d" ] || echo "${_d##*/}" > "/sys/bus/virtio/drivers/$1/unbind" || return 1
	done
}

# load_kernel_modules: what the guest's kernel lacks, each with what it needs of the kernel's own modules.
load_kernel_modules() {
	for _m in $KERNEL_MODULES; do
		# One that was loaded from here has no file for modprobe.
		for _n in $(modinfo -F depends "$JOB/$_m" | tr , ' '); do
			modprobe -q "$_n" || true
		done
		insmod "$JOB/$_m" || return 1
	done
}

# load_driver NAME [PARAMETER=VALUE...]: binds the disk to virtio_blk_crypto or virtio_blk, whether module or built in.
load_driver() {
	_name=$1
	shift
	# load_kernel_modules, or the kernel itself, has loaded this one; nobody asks for the driver of its disks.
	if [ "$_name" = ufshcd ]; then
		modprobe -q sd_mod || true
		wait_for_disk yes
		return
	fi
	# If the other driver is built in, it has the disk already.
	case $_name in
	virtio_blk) unbind_driver virtio_blk_crypto ;;
	virtio_blk_crypto) unbind_driver virtio_blk ;;
	esac
	if [ -d "/sys/bus/virtio/drivers/$_name" ]; then
		for _p in "$@"; do
			echo "${_p#*=}" > "/sys/module/$_name/parameters/${_p%%=*}" || return 1
		done
		for _d in /sys/bus/virtio/devices/virtio*; do
			[ "$(cat "$_d/device")" != 0x0002 ] || [ -e "$_d/driver" ] ||
				echo "${_d##*/}" > "/sys/bus/virtio/drivers/$_name/bind" || return 1
		done
	elif [ "$_name" = virtio_blk_crypto ] && [ -e "$JOB/virtio_blk_crypto.ko" ]; then
		insmod "$JOB/virtio_blk_crypto.ko" "$@" || return 1
	else
		modprobe "$_name" "$@" || return 1
	fi
	wait_for_disk yes
}

# unload_driver NAME: removes it (or unbinds it from the disk, if it is built in) and waits until the disk is gone.
unload_driver() {
	if [ -e "/sys/module/$1/initstate" ]; then
		rmmod "$1" || return 1
	else
		unbind_driver "$1" || return 1
	fi
	wait_for_disk no
}

# change_driver NAME [PARAMETER=VALUE...]: binds the disk to the other driver.
change_driver() {
	for _old in virtio_blk virtio_blk_crypto; do
		[ ! -e "/sys/module/$_old/initstate" ] || unload_driver "$_old" || return 1
	done
	load_driver "$@"
}

# dmesg_has TEXT: true when the kernel's log has it.
dmesg_has() {
	dmesg | grep -qF -- "$1"
}

# kernel_said TEXT: as dmesg_has, but also before dmesg_clear.
kernel_said() {
	dmesg_has "$1" || grep -qsF -- "$1" "$OUT/dmesg-before"
}

# dmesg_clear: dmesg_has sees only later lines. The results keep the earlier ones.
dmesg_clear() {
	dmesg -c >> "$OUT/dmesg-before"
}
