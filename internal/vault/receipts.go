package vault

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"holdfast/internal/vault/store"
)

// Receipts are signed by who wrote them (internal/receipt); here they are bytes under a name, one object each, sealed as
// everything else is: they name tables. None is ever replaced or let go of.
const (
	receiptDir    = "receipts"
	receiptSuffix = ".aes"
	receiptMagic  = "HFRCPT\x00\x01"
	receiptHead   = 20 // magic 8, nonce 12
	receiptMax    = 1 << 20
)

// ReceiptNames lists all receipts, by name.
func (v *Vault) ReceiptNames(ctx context.Context) ([]string, error) {
	var out []string
	err := v.files.List(ctx, receiptDir+"/", func(i store.Info) error {
		if name, ok := strings.CutSuffix(strings.TrimPrefix(i.Name, receiptDir+"/"), receiptSuffix); ok {
			out = append(out, name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the receipts in vault %s: %w", v.name, err)
	}
	slices.Sort(out)
	return out, nil
}

// Receipt reads one. Content that was not stored under this name is an error.
func (v *Vault) Receipt(ctx context.Context, name string) ([]byte, error) {
	object, err := receiptObject(name)
	var raw []byte
	if err == nil {
		raw, err = store.Read(ctx, v.files, object)
	}
	if err == nil {
		raw, err = v.openReceipt(object, raw)
	}
	if err != nil {
		return nil, fmt.Errorf("read receipt %s in vault %s: %w", name, v.name, err)
	}
	return raw, nil
}

// PutReceipt stores one. The same again is no error; another under the same name is.
func (v *Vault) PutReceipt(ctx context.Context, name string, content []byte) error {
	if err := v.putReceipt(ctx, name, content); err != nil {
		return fmt.Errorf("store receipt %s in vault %s: %w", name, v.name, err)
	}
	return nil
}

func (v *Vault) putReceipt(ctx context.Context, name string, content []byte) error {
	object, err := receiptObject(name)
	if err != nil {
		return err
	}
	if len(content) == 0 || len(content) > receiptMax {
		return fmt.Errorf("%d bytes are none", len(content))
	}
	raw, err := v.sealReceipt(object, content)
	if err != nil {
		return err
	}
	err = v.files.Put(ctx, object, store.Bytes(raw))
	if err != nil && !errors.Is(err, store.ErrDiffers) { // equal content under a fresh nonce is never equal bytes
		return err
	}
	there, err := v.Receipt(ctx, name) // what cannot be read back is not kept
	if err == nil && !bytes.Equal(there, content) {
		err = errors.New("another one is kept under its name")
	}
	if err == nil {
		err = v.isListed(ctx, v.files, object) // who builds upon the newest one finds it by a list
	}
	if err != nil {
		return err
	}
	if err := v.writeDown(ctx, true); err != nil { // the receipt is stored; its row waits
		v.log.WarnContext(ctx, "catalog not written", "err", err)
	}
	return nil
}

func receiptObject(name string) (string, error) {
	object := path.Join(receiptDir, name) + receiptSuffix
	if !fs.ValidPath(name) || strings.Count(name, "/") != 1 {
		return "", fmt.Errorf("%q is no receipt's name", name)
	}
	return object, nil
}

func (v *Vault) sealReceipt(object string, content []byte) ([]byte, error) {
	gcm, err := v.cipherFor("holdfast-receipt-v1")
	if err != nil {
		return nil, err
	}
	head := make([]byte, receiptHead)
	copy(head, receiptMagic)
	_, _ = rand.Read(head[len(receiptMagic):]) // never fails (crypto/rand)
	return gcm.Seal(slices.Clone(head), head[len(receiptMagic):], content, []byte(object)), nil
}

// openReceipt authenticates a receipt under its own name.
func (v *Vault) openReceipt(object string, raw []byte) ([]byte, error) {
	if len(raw) < receiptHead || string(raw[:len(receiptMagic)]) != receiptMagic {
		return nil, errors.New("it is no receipt, or one of another version")
	}
	gcm, err := v.cipherFor("holdfast-receipt-v1")
	if err != nil {
		return nil, err
	}
	content, err := gcm.Open(nil, raw[len(receiptMagic):receiptHead], raw[receiptHead:], []byte(object))
	if err != nil {
		return nil, errors.New("damaged: its seal does not fit")
	}
	return content, nil
}
