# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the disk grows under I/O, twice: the guest sees it, ext4 is enlarged online, files in the new part are encrypted
# image: 128M
# queues: 4
# needs: fio resize2fs
# host: ctl resize 256M => before 134217728; the frontend was told
# host: fails ctl resize 128M => while a frontend is connected
# host: image 320M
# host: hangup
# check: fscrypt
# stat: requests.failed == 0
# stat: keyslots.nokey == 0

resize_case
