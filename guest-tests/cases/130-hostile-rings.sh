# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: rings and chains that break every rule: that queue stops, the others work, and after a reset all work
# driver: none
# needs: CONFIG_HUGETLBFS CONFIG_CRYPTO_USER_API_SKCIPHER
# device: --keyslots 8 --max-dun-bytes 8
# check: fscrypt
# calm: 10
# stat: events.broken_queue == 92
# stat: keyslots.nokey == 0

attack rings calm "$(find_port progress)"
encrypted_files
