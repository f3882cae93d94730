# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the device is killed and started again 10 times: no error, no wrong byte, no plaintext on the disk
# attach: vhost-user-blk
# driver: virtio_blk_crypto in_band=1
# device: --in-band --keyslots 8 --crypto-latency-us 15000 --program-latency-us 2000
# needs: fio
# kills: 10
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0

survive_kills
