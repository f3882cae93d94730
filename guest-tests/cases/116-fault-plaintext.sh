# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: broken hardware, and the verifier catches it: data is not encrypted
# device: --fault plaintext
# check: fscrypt
# expect-wrong: this is plaintext
# wrong-share: 100
# stat: events.fault > 0
# stat: keyslots.nokey == 0

broken_case per-file unnoticed
