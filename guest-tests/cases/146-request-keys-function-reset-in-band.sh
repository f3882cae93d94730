# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: keys in requests and in-band access: a function reset under verified I/O, nothing is lost
# attach: vhost-user-blk
# driver: virtio_blk_crypto in_band=1
# device: --in-band --keyslots 0
# root-port: yes
# needs: fio
# check: fscrypt
# stat: keyslots.program == 0
# stat: keyslots.nokey == 0

function_reset_case
