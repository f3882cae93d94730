# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: on QEMU 7.2, of Debian 12, firmware and guest boot with the disk: plain with both drivers, in-band encrypted with ours
# qemu: bookworm
# attach: vhost-user-blk
# driver: none
# device: --num-queues 2 --in-band --keyslots 3
# rings: 2
# needs: CONFIG_EDD
# host: ctl stats --format json => "in": 512,
# check: fscrypt
# stat: requests.failed == 0
# stat: events.broken_queue == 0
# stat: keyslots.replace > 0
# stat: keyslots.nokey == 0

plain_then_in_band
