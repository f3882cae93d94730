# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a disk without keyslots disappears under I/O: its requests end, and keep no key in the guest's memory
# device: --keyslots 0
# root-port: yes
# needs: fio CONFIG_PROC_KCORE
# check: fscrypt
# errors: expected
# stat: requests.crypto_out > 0
# stat: keyslots.program == 0
# stat: keyslots.nokey == 0

no_key_is_left() {
	local found
	found=$(keys-in-requests freed)
	[ "${found% *}" -gt 0 ] || fail 'no request in memory has ever carried a key'
	[ "${found#* }" = 0 ] || fail "${found#* } of ${found% *} requests hold a key"
	note "none of ${found% *} requests holds a key"
}

surprise_removal_case no_key_is_left
