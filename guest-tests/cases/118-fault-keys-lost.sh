# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: keys get lost one by one and all at once: the driver programs them again, and no data is lost
# device: --fault lose-key,op=write,nth=4,count=1 --fault lose-key,op=write,nth=15,count=1
# device: --fault lose-key,op=read,nth=10,count=1 --fault lose-all-keys,op=read,slot=0-31,nth=30,count=1
# check: fscrypt
# stat: events.fault == 4
# stat: keyslots.nokey >= 4
# stat: keyslots.program_failed == 0

ciphertext_case per-file 4096
expect_native
