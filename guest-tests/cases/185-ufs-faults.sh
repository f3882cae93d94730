# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the UFS driver's error handler recovers from statuses, lost links, a dead crypto engine and failed hibernation, under verified encrypted I/O
# attach: ufs
# needs: fio
# device: --personality ufs-3.1
# timeout: 600
# host: ctl fault add ocs=fatal-error,slot=0-31,count=1 => fault 1
# host: ctl fault add ocs=general-crypto-error,slot=0-31,count=2 => fault 2
# host: ctl fault add link-lost,slot=0-31,count=1 => fault 3
# host: ctl fault add link-error,slot=0-31,count=1 => fault 4
# host: ctl fault add crypto-fatal-error,count=1 => fault 5
# host: ctl fault add uic-failure,op=hibernate-enter,count=1 => fault 6
# host: ctl fault add uic-failure,op=hibernate-exit,count=1 => fault 7
# check: fscrypt
# stat: events.fault == 8
# stat: events.reset > 4
# stat: keyslots.nokey == 0

resets() {
	dmesg | grep -c 'ufshcd_err_handler started' || true
}

# strike NAME: the host adds this fault, and it strikes fio. Linux reads most files as if it read ahead. It does not try that again, and
# logs the error.
strike() {
	local before tries=0
	note "$1"
	before=$(dmesg | tail -n 1)
	host_step
	while [ "$(dmesg | tail -n 1)" = "$before" ]; do
		[ $tries -lt 600 ] || fail "$1 strikes nobody"
		tries=$((tries + 1))
		sleep 0.1
	done
	sleep 3
}

secret_tree
encrypted_dir "$MNT/busy" two per-file 512
begin_busy
for name in fatal-error general-crypto-error link-lost link-error crypto-fatal-error; do
	strike "$name"
	drop_caches
	same_files "$OUT/plain/tree" "$MNT/secret"
done
end_busy

[ "$(resets)" -ge 3 ] || fail "the error handler has run $(resets) times"
for name in enter exit; do
	note "hibernate $name fails"
	host_step_done
	before=$(resets)
	# After a failure the driver may try again, or stay awake.
	(runtime_suspend 1) || true
	runtime_resume
	drop_caches
	same_files "$OUT/plain/tree" "$MNT/secret"
	dmesg_has "hibern8 $name failed" || fail "hibern8 $name has not failed"
	# The driver recovers the link itself when leaving hibernation fails.
	[ $name = exit ] || [ "$(resets)" -gt "$before" ] || fail 'the error handler has not run'
done
umount "$MNT"
secret_tree_is_right
