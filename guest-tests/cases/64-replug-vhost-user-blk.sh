# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: behind vhost-user-blk-pci, with in-band access, the disk is unplugged and plugged in ten times, too
# attach: vhost-user-blk
# driver: virtio_blk_crypto in_band=1
# device: --keyslots 3 --in-band
# needs: fio
# host: second
# host: replug
# host: replug
# host: replug
# host: replug
# host: replug
# host: replug
# host: replug
# host: replug
# host: replug
# host: replug
# check: fscrypt
# stat: keyslots.nokey == 0
# stat: requests.failed == 0
# stat: events.broken_queue == 0

replug_case 10
