# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a device that keeps keys over a reset loses the old driver's keys as soon as a new driver binds
# device: --keys-on-reset kept --keyslots 8
# host: ctl keyslots => generation
# host: ctl keyslots => no keyslot holds a key
# check: fscrypt
# errors: expected
# stat: keyslots.lost == 0
# stat: keyslots.nokey == 0

driver_before_case
