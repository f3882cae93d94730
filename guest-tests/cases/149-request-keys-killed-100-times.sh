# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: keys in requests, and the device is killed and started again 100 times: no error, no wrong byte, no key to lose
# attach: vhost-user-blk
# driver: virtio_blk_crypto in_band=1
# device: --in-band --keyslots 0 --crypto-latency-us 15000
# needs: fio
# long: yes
# timeout: 1800
# kills: 100
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.program == 0
# stat: keyslots.nokey == 0

survive_kills
