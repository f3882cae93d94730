# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the disk disappears under I/O and its registers read as all ones: its removal does not hang, and it works when it is back
# root-port: yes
# needs: fio
# check: fscrypt
# errors: expected
# stat: requests.crypto_out > 0

surprise_removal_case
