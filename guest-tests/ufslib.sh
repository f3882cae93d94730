# SPDX-License-Identifier: Apache-2.0 OR MIT
# shellcheck shell=sh
#
# Cases with the kernel's own UFS driver. Sourced after fslib.sh.

UFS_DRIVER=/sys/bus/pci/drivers/ufshcd

# ufs_controller: prints the PCI function of the host controller.
ufs_controller() {
	basename "$(readlink -f $UFS_DRIVER/0000:*)"
}

# use_lun N: the disk is this logical unit from now on. Waits for it: Linux probes disks in any order.
use_lun() {
	local tries=0 found
	while :; do
		found=$(cd /sys/bus/scsi/devices && ls -d ./*:*:*:"$1"/block/* 2> /dev/null || true)
		[ -z "$found" ] || break
		[ $tries -lt 100 ] || fail "there is no logical unit $1"
		tries=$((tries + 1))
		sleep 0.1
	done
	DISK=/dev/${found##*/}
	BLOCK=/sys/block/${found##*/}
	wait_for_disk yes
}

# rebind: the driver lets the controller go and takes it again.
rebind() {
	local controller
	controller=$(ufs_controller)
	echo "$controller" > $UFS_DRIVER/unbind
	wait_for_disk no
	echo "$controller" > $UFS_DRIVER/bind
}

# runtime_suspend LEVEL: lets the driver suspend the controller and the device behind it to this level (rpm_lvl), and waits for it.
runtime_suspend() {
	local device tries=0
	device=/sys/bus/pci/devices/$(ufs_controller)
	sync
	echo "$1" > "$device/rpm_lvl"
	for control in /sys/bus/scsi/devices/*:*:*:*/power "$device/power"; do
		echo 100 > "$control/autosuspend_delay_ms" 2> /dev/null || true
		echo auto > "$control/control"
	done
	until [ "$(cat "$device/power/runtime_status")" = suspended ]; do
		[ $tries -lt 200 ] || fail "the controller does not suspend: $(cat "$device/power/runtime_status")"
		tries=$((tries + 1))
		sleep 0.1
	done
}

# runtime_resume: the controller stays awake from now on.
runtime_resume() {
	for control in /sys/bus/scsi/devices/*:*:*:*/power "/sys/bus/pci/devices/$(ufs_controller)/power"; do
		echo on > "$control/control"
	done
}
