# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: behind vhost-user-blk-pci, with in-band access, a pause loses no key either
# attach: vhost-user-blk
# driver: virtio_blk_crypto in_band=1
# device: --keyslots 3 --in-band
# queues: 4
# needs: fio
# host: pause 5
# host: ctl stats --format json => "lost": 0,
# host: ctl keyslots => no keyslot holds a key
# check: fscrypt
# errors: expected
# stat: keyslots.replace > 0
# stat: keyslots.nokey == 0
# stat: requests.failed == 0

pause_case
