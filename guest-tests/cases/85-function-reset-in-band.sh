# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the same with in-band access, behind vhost-user-blk-pci
# attach: vhost-user-blk
# driver: virtio_blk_crypto in_band=1
# device: --in-band
# root-port: yes
# needs: fio
# check: fscrypt
# stat: keyslots.lost > 0
# stat: keyslots.nokey == 0

function_reset_case
