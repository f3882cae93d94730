# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: behind vhost-user-blk-pci, with in-band access, the disk grows under I/O in the same way
# attach: vhost-user-blk
# driver: virtio_blk_crypto in_band=1
# device: --in-band
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
