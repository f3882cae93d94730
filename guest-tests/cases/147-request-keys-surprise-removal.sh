# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a disk without keyslots disappears under I/O: its requests end, and keep no key in the guest's memory
# device: --keyslots 0
# root-port: yes
# needs: fio CONFIG_PROC_KCORE
# errors: expected
# stat: requests.crypto_out > 0
# stat: keyslots.program == 0
# stat: keyslots.nokey == 0

surprise_removal_case
found=$(keys-in-requests freed)
[ "${found#* }" = 0 ] || fail "${found#* } of ${found% *} requests hold a key"
