# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: in the guest's memory no request keeps the key that it carried, after success or failure
# device: --keyslots 0
# needs: CONFIG_PROC_KCORE
# host: ctl fault add stuck,op=read => fault 1
# host: ctl fault clear => 1 faults are cleared
# host: ctl fault add io-error,op=read,count=1
# check: fscrypt
# errors: expected
# stat: requests.failed == 1
# stat: keyslots.program == 0
# stat: keyslots.nokey == 0

# keys_held: prints how many requests hold a key. The program must find requests, which shows that it searches the right memory.
keys_held() {
	local found
	found=$(keys-in-requests)
	[ "${found% *}" -gt 0 ] || fail 'no request in memory has ever carried a key' >&2
	echo "${found#* }"
}

secret_files
held=$(keys_held)
[ "$held" = 0 ] || fail "$held completed requests hold a key"

note 'the test sees the key of a request in flight'
file=$MNT/secret/file-9-of-65536
host_step_done
dd if="$file" of=/dev/null bs=4096 count=1 iflag=direct status=none &
reader=$!
sleep 1
held=$(keys_held)
[ "$held" -ge 1 ] || fail 'a request that is stuck holds no key'
host_step
wait $reader
held=$(keys_held)
[ "$held" = 0 ] || fail "$held requests hold a key after one was stuck"

note 'a request that fails'
host_step_done
expect_failure 'reading' dd if="$file" of=/dev/null bs=4096 count=1 iflag=direct status=none
held=$(keys_held)
[ "$held" = 0 ] || fail "$held requests hold a key after one has failed"

record "$MNT/secret" tree
umount "$MNT"
check_fs "$DISK"
