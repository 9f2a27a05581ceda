package vault

import (
	"errors"
	"fmt"

	"holdfast/internal/problem"
	"holdfast/internal/vault/s3store"
	"holdfast/internal/vault/store"
)

// unusable says what a place's refusal means; any other error is given back.
func unusable(name, url string, err error) error {
	switch {
	case errors.Is(err, store.ErrNoPlace):
		return noBucket(name, url, err)
	case errors.Is(err, store.ErrDenied):
		return denied(name, url, err)
	case errors.Is(err, s3store.ErrNoLock):
		return noLock(name, url)
	}
	return err
}

func noBucket(name, url string, why error) *problem.Problem {
	return &problem.Problem{
		Code: "vault.no-bucket", Subject: name, Severity: problem.Critical,
		Title: "there is no bucket or container for " + url + ": " + why.Error(),
		Meaning: "No backup and no log can be stored or read there. Holdfast makes none: what they keep, cost and allow " +
			"is the operator's to say.",
		Remedy: "make it, or correct the copy's url, endpoint or region in the plan",
	}
}

func denied(name, url string, why error) *problem.Problem {
	return &problem.Problem{
		Code: "vault.denied", Subject: name, Severity: problem.Critical,
		Title:   "the store does not let us use " + url + ": " + why.Error(),
		Meaning: "The credentials are unknown there, or lack a right. Nothing was written.",
		Remedy:  "correct the credentials of the copy in the plan, or give them the rights that the handbook lists",
	}
}

func noLock(name, url string) *problem.Problem {
	return &problem.Problem{
		Code: "vault.no-lock", Subject: name, Severity: problem.Critical,
		Title:   "a lock is asked for, and the bucket of " + url + " was made without object lock",
		Meaning: "What is stored there could be deleted by whoever has the credentials. Nothing was written.",
		Remedy:  "make a bucket with object lock and name that, or take lock out of the plan",
	}
}

func foreign(name, owner, asked string) *problem.Problem {
	return &problem.Problem{
		Code: "vault.foreign", Subject: name, Severity: problem.Critical,
		Title:   fmt.Sprintf("belongs to application %q, not %q", owner, asked),
		Meaning: "Nothing was read or written: two applications in one vault would expire each other's backups.",
		Remedy:  "correct the vault's url in the plan, or the application's name",
	}
}

func wrongKey(name string) *problem.Problem {
	return &problem.Problem{
		Code: "vault.wrong-key", Subject: name, Severity: problem.Critical,
		Title:   "the key does not open this vault",
		Meaning: "Nothing was written. What is stored cannot be read without the key with which the vault was made.",
		Remedy:  "point the plan's key at the right secret, or use the exported copy of the key",
	}
}

func emptyKey(name string) *problem.Problem {
	return &problem.Problem{
		Code: "vault.no-key", Subject: name, Severity: problem.Critical,
		Title:   "the key is empty",
		Meaning: "A vault without a key would not be encrypted.",
		Remedy:  "see that the key's reference in the plan leads to a secret",
	}
}

func absent(name, dir string) *problem.Problem {
	return &problem.Problem{
		Code: "vault.absent", Subject: name, Severity: problem.Critical,
		Title:   "no vault at " + dir,
		Meaning: "No backup and no log can be stored or read there. Nothing was created.",
		Remedy:  "mount the disk if it is missing; a vault that never was is made by the host that archives",
	}
}

func exchanged(name, found, known string) *problem.Problem {
	return &problem.Problem{
		Code: "vault.exchanged", Subject: name, Severity: problem.Critical,
		Title:   "another vault lies where this one was: " + found + " instead of " + known,
		Meaning: "Nothing is written to it, so that neither loses anything.",
		Remedy:  "mount the right disk, or correct the copy's place in the plan",
	}
}

func copyGone(name, place, where string) *problem.Problem {
	return &problem.Problem{
		Code: "vault.copy-gone", Subject: name, Severity: problem.Degraded,
		Title:   "copy " + place + " held the vault, and nothing is at " + where,
		Meaning: "The other copies go on. Nothing is written there: it may be the place where a disk is not mounted.",
		Remedy:  "mount the disk; or, when the copy is lost, fill it anew: holdfast vault sync " + name + " --fill " + place,
	}
}

// isAbsent reports whether there is a place and no vault in it.
func isAbsent(err error) bool {
	p, ok := errors.AsType[*problem.Problem](err)
	return ok && p.Code == "vault.absent"
}

func exists(name, dir string) *problem.Problem {
	return &problem.Problem{
		Code: "vault.exists", Subject: name, Severity: problem.Note,
		Title:   "there is a vault at " + dir + " already",
		Meaning: "It was left as it is.",
		Remedy:  "use it, or name another directory",
	}
}

func notEmpty(name, dir, found string) *problem.Problem {
	return &problem.Problem{
		Code: "vault.not-empty", Subject: name, Severity: problem.Critical,
		Title:   fmt.Sprintf("%s holds %s and is no vault", dir, found),
		Meaning: "Nothing was touched: a vault is only made in an empty directory.",
		Remedy:  "name an empty directory, or move away what is there",
	}
}

func otherFormat(name string, format int) *problem.Problem {
	return &problem.Problem{
		Code: "vault.other-format", Subject: name, Severity: problem.Critical,
		Title:   fmt.Sprintf("format %d is not one that this program knows (it knows %d)", format, formatNow),
		Meaning: "It was made by another version. Nothing was written.",
		Remedy:  "use the version of holdfast that made it, or a newer one",
	}
}

func damagedIdentity(name, dir, why string) *problem.Problem {
	return &problem.Problem{
		Code: "vault.damaged-identity", Subject: name, Severity: problem.Critical,
		Title:   identityFile + " is damaged: " + why,
		Meaning: "The stored backups may be whole, but nothing shows any more whose they are.",
		Remedy:  "bring back " + dir + "/" + identityFile + " from another copy of the vault",
	}
}

func lostFormat(name string) *problem.Problem {
	return &problem.Problem{
		Code: "vault.lost-format", Subject: name, Severity: problem.Critical,
		Title:   formatBlob + " is missing",
		Meaning: "Without it nothing can be decrypted. A copy was made when the vault was created.",
		Remedy:  "copy " + formatBlobCopy + " to " + formatBlob + " inside the vault (in a directory its name ends in .f)",
	}
}
