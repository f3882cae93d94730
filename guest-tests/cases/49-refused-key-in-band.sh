# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: if the device refuses to program a lost key again, only the files with that key fail, also in-band
# attach: vhost-user-blk
# driver: virtio_blk_crypto in_band=1
# device: --in-band --keyslots 16
# root-port: yes
# host: ctl fault add io-error,op=program,slot=3 => fault
# host: ctl reset-engine => 16 keys are lost
# host: ctl fault clear => 1 faults are cleared
# host: ctl fault add io-error,op=program,slot=3 => fault
# host: ctl reset-engine => 16 keys are lost
# host: ctl fault clear => 1 faults are cleared
# check: fscrypt
# errors: expected
# stat: keyslots.program <= 100

refused_key_case
