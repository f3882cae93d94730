# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a key that is removed during a reset of a device that keeps keys is not in it afterwards
# device: --keys-on-reset kept --keyslots 32
# root-port: yes
# host: ctl keyslots => no keyslot holds a key
# check: fscrypt
# stat: keyslots.lost == 0
# stat: keyslots.nokey == 0

evicted_meanwhile_case
